package mock

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

const sessionsURI = service + "/SessionService/Sessions"

// maxSessions is as many as a Server keeps; the oldest goes.
const maxSessions = 64

// Server serves one tree, read-only: a write answers 405 and changes nothing.
// Its methods are safe for concurrent use.
type Server struct {
	tree     *Tree
	password string
	cert     tls.Certificate

	mu       sync.Mutex
	sessions []session // oldest first
}

type session struct{ id, token, user string }

// NewServer makes a server whose user is root with the given password, and a
// key of its own.
func NewServer(tree *Tree, password string) (*Server, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: tree.Name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return &Server{tree: tree, password: password, cert: cert}, nil
}

// Name is the tree's.
func (s *Server) Name() string { return s.tree.Name }

// Pin is "sha256/" and the base64 SHA-256 of the certificate's public key.
func (s *Server) Pin() string { return bmcsim.PinOf(s.cert.Leaf) }

// Serve answers HTTPS on l until ctx ends. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{s.cert}, NextProtos: []string{"h2", "http/1.1"}},
		ReadHeaderTimeout: 15 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("OData-Version", "4.0")
	uri := key(r.URL.EscapedPath())
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case r.Method == http.MethodPost && (uri == sessionsURI || uri == s.sessionsOfRoot()):
		s.login(w, r)
	case !s.open(uri) && !s.knows(r):
		refuse(w, http.StatusUnauthorized, "NoValidSession", "log in first")
	case r.Method == http.MethodDelete && s.logout(uri):
		w.WriteHeader(http.StatusNoContent)
	case !reads:
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "OperationNotAllowed", "a recorded tree can only be read")
	default:
		s.answer(w, r, uri)
	}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, uri string) {
	if r.URL.RawQuery != "" {
		uri += "?" + r.URL.RawQuery
	}
	body, found := s.tree.find(uri)
	if !found {
		refuse(w, http.StatusNotFound, "ResourceMissingAtURI", "the record has no such resource")
		return
	}
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Type", mediaType(body))
	_, _ = w.Write(body) //nolint:gosec // the record is the product; a browser is told not to sniff
}

// mediaType is what a body says it is; what is meant to be JSON is called so,
// broken or not.
func mediaType(body []byte) string {
	switch start := bytes.TrimLeft(body, "\xEF\xBB\xBF \t\r\n"); {
	case bytes.HasPrefix(start, []byte("<")):
		return "application/xml"
	case bytes.HasPrefix(start, []byte("PK\x03\x04")):
		return "application/zip"
	}
	return "application/json"
}

// open reports what answers without a login (DSP0266, "Authentication").
func (*Server) open(uri string) bool {
	switch uri {
	case "/redfish", service, service + "/odata":
		return true
	}
	return false
}

// sessionsOfRoot is where the record's own root says that sessions are made.
func (s *Server) sessionsOfRoot() string {
	var root struct {
		Links struct {
			Sessions struct {
				ID string `json:"@odata.id"`
			}
		}
	}
	whole, _ := s.tree.at(service)
	whole, _ = redfish.Repair(whole)
	_ = redfish.Decode(whole, &root) // else it stays ""
	return key(root.Links.Sessions.ID)
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var who struct{ UserName, Password string }
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<10))
	if err != nil || json.Unmarshal(body, &who) != nil {
		refuse(w, http.StatusBadRequest, "MalformedJSON", "the body is not the JSON that is wanted")
		return
	}
	if !s.fits(who.UserName, who.Password) {
		refuse(w, http.StatusUnauthorized, "ResourceAtUriUnauthorized", "the user or the password is wrong")
		return
	}
	made := session{id: rand.Text()[:10], token: rand.Text(), user: who.UserName}
	s.mu.Lock()
	s.sessions = append(s.sessions, made)
	s.sessions = s.sessions[max(0, len(s.sessions)-maxSessions):]
	s.mu.Unlock()
	at := strings.TrimSuffix(r.URL.Path, "/") + "/" + made.id
	w.Header().Set("X-Auth-Token", made.token)
	w.Header().Set("Location", at)
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]string{"@odata.id": at, "@odata.type": "#Session.v1_7_0.Session", "Id": made.id, "Name": "User Session", "UserName": made.user})
}

func (s *Server) fits(user, password string) bool {
	return user == "root" && subtle.ConstantTimeCompare([]byte(password), []byte(s.password)) == 1
}

func (s *Server) knows(r *http.Request) bool {
	if user, password, ok := r.BasicAuth(); ok {
		return s.fits(user, password)
	}
	token := r.Header.Get("X-Auth-Token")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, known := range s.sessions {
		if token != "" && subtle.ConstantTimeCompare([]byte(known.token), []byte(token)) == 1 {
			return true
		}
	}
	return false
}

// logout ends the session that a URI names.
func (s *Server) logout(uri string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, known := range s.sessions {
		if strings.HasSuffix(uri, "/"+known.id) {
			s.sessions = append(s.sessions[:i:i], s.sessions[i+1:]...)
			return true
		}
	}
	return false
}

// Sessions is how many are open.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

func refuse(w http.ResponseWriter, status int, id, message string) {
	w.WriteHeader(status)
	info := map[string]any{"MessageId": "Base.1.19." + id, "Message": message, "MessageSeverity": "Critical"}
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
		"code": "Base.1.19." + id, "message": message, "@Message.ExtendedInfo": []any{info},
	}})
}
