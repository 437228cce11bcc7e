package e2e_test

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// othersSayTheSame asks a BMC at T3 with tools that are not ours, as an auditor would:
// what it serves, whom it lets in, and that what it came with is gone.
func (w *world) othersSayTheSame(node, cert, key, anchor string) {
	w.t.Helper()
	address := w.addresses()[node]
	w.t.Run("openssl", func(t *testing.T) { opensslAsks(t, w, address, []string{cert, key, anchor}) })
	w.t.Run("curl", func(t *testing.T) { curlAsks(t, w, node, address, []string{cert, key, anchor}) })
}

// opensslAsks has the certificate and its chain verified by OpenSSL, as BMCs do with ours.
func opensslAsks(t *testing.T, w *world, address string, files []string) {
	t.Helper()
	cert, key, anchor := files[0], files[1], files[2]
	const request = "GET /redfish/v1/Systems/system HTTP/1.0\r\n\r\n"
	client := []string{"s_client", "-connect", address, "-CAfile", anchor, "-verify_return_error", "-ign_eof"}
	out := tool(t, request, "openssl", append(client, "-cert", cert, "-key", key)...)
	for _, want := range []string{"Verify return code: 0 (ok)", "Chiba rack r01.dev", "BMC of ai-node-0", "TLSv1.3", "HTTP/1.0 200"} {
		if !strings.Contains(out, want) {
			t.Errorf("with our certificate openssl does not say %q:\n%s", want, out)
		}
	}
	if out = tool(t, request, "openssl", client...); !strings.Contains(out, "alert certificate required") || strings.Contains(out, "HTTP/1") {
		t.Errorf("without a certificate:\n%s", out)
	}
	// One that anybody can make, with the right name.
	own, ownKey := filepath.Join(w.dir, "own.pem"), filepath.Join(w.dir, "own.key")
	tool(t, "", "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=chiba-agent-r01", "-keyout", ownKey, "-out", own)
	if out = tool(t, request, "openssl", append(client, "-cert", own, "-key", ownKey)...); !strings.Contains(out, "alert") || strings.Contains(out, "HTTP/1") {
		t.Errorf("with a certificate of its own:\n%s", out)
	}
	// The root of the mesh is not what the BMC's certificate leads to.
	root := filepath.Join(w.dir, "ca", "root", "2", "cert.pem")
	out = tool(t, request, "openssl", "s_client", "-connect", address, "-CAfile", root, "-verify_return_error", "-cert", cert, "-key", key)
	if strings.Contains(out, "Verify return code: 0") || strings.Contains(out, "HTTP/1") {
		t.Errorf("below another root:\n%s", out)
	}
}

func curlAsks(t *testing.T, w *world, node, address string, files []string) {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	host := node + ".r01.dev.chiba.internal" // curl checks the name, too
	base := "https://" + host + ":" + port + "/redfish/v1/"
	curl := func(path string, args ...string) string {
		return tool(t, "", "curl", append([]string{"-s", "-w", "\n%{http_code}", "--resolve", host + ":" + port + ":127.0.0.1", "--cacert", files[2], base + path}, args...)...)
	}
	ours := []string{"--cert", files[0], "--key", files[1]}
	if out := curl("Systems/system", ours...); !strings.HasSuffix(out, "200") {
		t.Errorf("with our certificate: %s", out)
	}
	for name, args := range map[string][]string{"nothing": nil, "the password that it came with": {"-u", "root:0penBmc"}} {
		if out := curl("Systems/system", args...); !strings.HasSuffix(out, "000") {
			t.Errorf("with %s: %s", name, out)
		}
	}
	// Somebody whom the rack's authority knows, and the BMC does not.
	cert, key, _ := w.certificateOf("chiba-nobody")
	nobody := []string{"--cert", cert, "--key", key}
	for name, args := range map[string][]string{
		"nobody's certificate":                {},
		"and the password that it came with":  {"-u", "root:0penBmc"},
		"and a session by the same":           {"-H", "Content-Type: application/json", "-d", `{"UserName":"root","Password":"0penBmc"}`},
		"and an account that nobody has made": {"-u", "admin:admin"},
	} {
		path := "Systems/system"
		if len(args) == 4 {
			path = "SessionService/Sessions"
		}
		if out := curl(path, append(args, nobody...)...); !strings.HasSuffix(out, "401") {
			t.Errorf("%s: %s", name, out)
		}
	}
	out := strings.Join(strings.Fields(curl("AccountService", ours...)), "")
	for _, want := range []string{`"HTTPBasicAuth":"Disabled"`, `"BasicAuth":false`, `"Cookie":false`, `"TLS":true`, `"RespondToUnauthenticatedClients":false`} {
		if !strings.Contains(out, want) {
			t.Errorf("the account service does not show %s:\n%s", want, out)
		}
	}
}

// tool runs a program of this machine with what it reads, and returns what it says. A
// test is skipped where there is none.
func tool(t *testing.T, reads, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("this machine has no %s", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(reads)
	out, _ := cmd.CombinedOutput() // a refusal is an answer too
	return strings.TrimSpace(string(out))
}
