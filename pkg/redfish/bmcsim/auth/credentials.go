package auth

import (
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Cookie is the name of the cookie that holds a browser's token.
const Cookie = "BMCWEB-SESSION"

// Basic reads what follows "Basic" in an Authorization header.
func Basic(encoded string) (user string, password fleet.Secret, valid bool) {
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", password, false
	}
	user, secret, valid := strings.Cut(string(text), ":")
	return user, fleet.NewSecret(secret), valid
}

// CookieToken is the token in a Cookie header, "" if there is none. The last one
// counts.
func CookieToken(header string) (token string) {
	for part := range strings.SplitSeq(header, ";") {
		if name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name == Cookie {
			token = value
		}
	}
	return token
}

// Shown reports whether a browser has shown the session's second token, which
// no other site's page can.
func (s *Session) Shown(xsrf string) bool {
	return subtle.ConstantTimeCompare([]byte(s.XSRF), []byte(xsrf)) == 1
}
