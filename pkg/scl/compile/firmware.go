package compile

import (
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

const firmwareUsage = `(update-firmware "bmc" (image "https://images.example.net/bmc.tar") (digest "sha256:…"))`

var digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func firmwareOptions() []string { return []string{"image", "digest", "version", "apply", "timeout"} }

// firmware checks (update-firmware ID (image …) [(digest …)] [(version …)]
// [(apply now|on-reset)] [(timeout TIME)]).
func (c *compiler) firmware(cmd *scl.Command, n *syntax.Node) {
	f := &scl.Firmware{}
	cmd.Firmware, cmd.Timeout = f, time.Hour
	if !c.args(n, 2, 1+len(firmwareOptions()), firmwareUsage) {
		return
	}
	f.ID, _ = c.firmwareID(n.Args()[0])
	seen := map[string]*syntax.Node{}
	for _, option := range n.Args()[1:] {
		if !c.headed(option, "an option of update-firmware", `(image "bmc.tar")`) {
			continue
		}
		if seen[option.Head()] != nil {
			c.fail(Duplicate, option, c.say(option.List[0])+" stands here twice", "keep one of them")
			continue
		}
		seen[option.Head()] = option
		c.firmwareOption(cmd, option)
	}
	switch {
	case seen["image"] == nil:
		c.fail(WrongCount, n, "an update without an image", "write it like "+firmwareUsage)
	case f.Remote() && seen["digest"] == nil:
		c.fail(WrongCount, seen["image"], "an image from elsewhere without a digest", `write (digest "sha256:…") behind it: what sha256sum says of the file`)
	}
}

// firmwareID reads what is updated: a symbol, as in firmware.ID.version, or a text.
func (c *compiler) firmwareID(n *syntax.Node) (string, bool) {
	if n.Kind == syntax.Symbol {
		return n.Text, true
	}
	return c.text(n, "the id of a firmware")
}

func (c *compiler) firmwareOption(cmd *scl.Command, n *syntax.Node) {
	f := cmd.Firmware
	known := map[string]func(*syntax.Node){
		"image":   func(arg *syntax.Node) { f.Image, _ = c.imagePlace(arg) },
		"digest":  func(arg *syntax.Node) { f.Digest, _ = c.digest(arg) },
		"version": func(arg *syntax.Node) { f.Version, _ = c.text(arg, "a version") },
		"apply": func(arg *syntax.Node) {
			word, _ := c.choice(arg, "time to apply", []string{"now", "on-reset"})
			f.OnReset = word == "on-reset"
		},
		"timeout": func(arg *syntax.Node) {
			if d, ok := c.duration(arg, time.Minute); ok {
				cmd.Timeout = d
			}
		},
	}
	take := known[n.Head()]
	if take == nil {
		c.unknown(UnknownField, n.List[0], "option of update-firmware", firmwareOptions(), nil)
		return
	}
	if c.args(n, 1, 1, firmwareUsage) {
		take(n.Args()[0])
	}
}

func (c *compiler) digest(n *syntax.Node) (string, bool) {
	text, ok := c.text(n, "a digest")
	if ok && !digest.MatchString(text) {
		c.fail(BadValue, n, c.say(n)+" is no digest", `write "sha256:" and what sha256sum says of the file, 64 hex digits`)
		return "", false
	}
	return text, ok
}

// imagePlace reads a URL, a digest, or a path that stays below where it begins.
func (c *compiler) imagePlace(n *syntax.Node) (string, bool) {
	text, ok := c.text(n, "the place of an image")
	if !ok {
		return "", false
	}
	if strings.HasPrefix(text, "sha256:") {
		return c.digest(n)
	}
	if (scl.Firmware{Image: text}).Remote() {
		return text, c.imageURL(n, text)
	}
	if strings.Contains(text, "://") {
		c.fail(BadValue, n, "an image can't be fetched from "+c.say(n), "write an http or https URL, or a file in the agent's artifacts")
		return "", false
	}
	if strings.HasPrefix(text, "/") || strings.ContainsAny(text, "\\\x00") || path.Clean(text) != text || strings.HasPrefix(text, "..") {
		c.fail(BadValue, n, c.say(n)+" is no path below the agent's artifacts", `write it like "dell/bios-1.8.2.exe"`)
		return "", false
	}
	return text, true
}

// imageURL refuses a URL with a password: it would show in every plan and log.
func (c *compiler) imageURL(n *syntax.Node, text string) bool {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "":
		c.fail(BadValue, n, "this is no URL", `write it like "https://images.example.net/bmc.tar"`)
	case u.User != nil:
		c.fail(BadValue, n, "a URL with a login in it", "serve the image without one: it is checked by its digest")
	default:
		return true
	}
	return false
}
