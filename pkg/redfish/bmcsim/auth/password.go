package auth

import (
	"crypto/pbkdf2"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// hashRounds is what the shadow file of an OpenBMC has by default (sha512crypt:
// 5000). It costs some milliseconds here, and 50 on a BMC.
const hashRounds = 5000

// hash is "$pbkdf2-sha512$SALT$HASH".
func hash(password fleet.Secret, random io.Reader) (string, error) {
	salt := make([]byte, 12)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fmt.Errorf("make a salt: %w", err)
	}
	return hashWith(password, salt)
}

func hashWith(password fleet.Secret, salt []byte) (string, error) {
	key, err := pbkdf2.Key(sha512.New, password.Reveal(), salt, hashRounds, 32)
	if err != nil {
		return "", fmt.Errorf("hash the password: %w", err)
	}
	enc := base64.RawStdEncoding
	return "$pbkdf2-sha512$" + enc.EncodeToString(salt) + "$" + enc.EncodeToString(key), nil
}

// matches compares in constant time.
func matches(hashed string, password fleet.Secret) bool {
	parts := strings.Split(hashed, "$")
	if len(parts) != 4 {
		return false
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	got, err := hashWith(password, salt)
	return err == nil && subtle.ConstantTimeCompare([]byte(got), []byte(hashed)) == 1
}

// randomText is n characters of [A-Za-z0-9], all equally likely.
func randomText(random io.Reader, n int) (string, error) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, n)
	var c [1]byte
	for len(out) < n {
		if _, err := io.ReadFull(random, c[:]); err != nil {
			return "", fmt.Errorf("make a random text: %w", err)
		}
		if int(c[0]) < 4*len(letters) { // drop the rest: it would favour the first letters
			out = append(out, letters[int(c[0])%len(letters)])
		}
	}
	return string(out), nil
}
