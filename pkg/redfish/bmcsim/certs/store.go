package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxEntries is how many certificates OpenBMC's truststore takes.
const maxEntries = 10

// ErrNoEntry is the answer to an id that is not in the truststore.
var ErrNoEntry = errors.New("there is no such certificate")

// Store is the truststore: the CAs that client certificates may come from. Of
// an entry with several certificates only the first counts.
type Store struct {
	Last    int // the highest id that was ever given; ids are not used again
	Entries []Entry
}

// Entry is a certificate of the truststore, as PEM.
type Entry struct {
	ID   string
	Text string
}

// Add takes a certificate in and answers with its id. Garbage, a certificate
// that is there already and the eleventh one are refused.
func (s *Store) Add(text string) (id string, err error) {
	if err := s.fits(text, ""); err != nil {
		return "", err
	}
	if len(s.Entries) >= maxEntries {
		return "", errors.New("the truststore is full")
	}
	s.Last++
	id = strconv.Itoa(s.Last)
	s.Entries = append(slices.Clone(s.Entries), Entry{id, text})
	return id, nil
}

// Replace puts another certificate in the place of an entry.
func (s *Store) Replace(id, text string) error {
	i := s.index(id)
	if i < 0 {
		return ErrNoEntry
	}
	if err := s.fits(text, id); err != nil {
		return err
	}
	s.Entries = slices.Clone(s.Entries)
	s.Entries[i].Text = text
	return nil
}

// Delete takes an entry out.
func (s *Store) Delete(id string) error {
	i := s.index(id)
	if i < 0 {
		return ErrNoEntry
	}
	s.Entries = slices.Delete(slices.Clone(s.Entries), i, i+1)
	return nil
}

// Get is the text of an entry.
func (s Store) Get(id string) (string, bool) {
	if i := s.index(id); i >= 0 {
		return s.Entries[i].Text, true
	}
	return "", false
}

// IDs are in the order in which OpenBMC lists them: as texts.
func (s Store) IDs() []string {
	ids := make([]string, len(s.Entries))
	for i, e := range s.Entries {
		ids[i] = e.ID
	}
	slices.Sort(ids)
	return ids
}

func (s Store) index(id string) int {
	return slices.IndexFunc(s.Entries, func(e Entry) bool { return e.ID == id })
}

// fits checks a certificate for the entry id, "" for a new one.
func (s Store) fits(text, id string) error {
	cert, _, err := First(text)
	if err != nil {
		return err
	}
	for _, e := range s.Entries {
		if other, _, err := First(e.Text); err == nil && e.ID != id && bytes.Equal(other.Raw, cert.Raw) {
			return errors.New("the certificate is in the truststore already")
		}
	}
	return nil
}

func (s Store) certificates() (list []*x509.Certificate) {
	for _, e := range s.Entries {
		if cert, _, err := First(e.Text); err == nil {
			list = append(list, cert)
		}
	}
	return list
}

// Roots are the trust anchors: self-signed certificates alone. An intermediate
// CA in the truststore helps to build a chain but ends none.
func (s Store) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range s.certificates() {
		if bytes.Equal(cert.RawSubject, cert.RawIssuer) {
			pool.AddCert(cert)
		}
	}
	return pool
}

// Verify checks a client's certificate with what it sent along: chain,
// validity at now, and that it may identify a client.
func (s Store) Verify(chain []*x509.Certificate, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("there is no certificate")
	}
	between := x509.NewCertPool()
	for _, cert := range slices.Concat(chain[1:], s.certificates()) {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: s.Roots(), Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// Mapping is how a client's certificate names its user.
type Mapping string

// The mappings that OpenBMC has.
const (
	CommonName        Mapping = "CommonName"
	UserPrincipalName Mapping = "UserPrincipalName"
)

// User is the name in a verified certificate. A principal name must end in the
// BMC's own host name.
func (m Mapping) User(cert *x509.Certificate, hostname string) (string, error) {
	if m != UserPrincipalName {
		if cert.Subject.CommonName == "" {
			return "", errors.New("the certificate has no common name")
		}
		return cert.Subject.CommonName, nil
	}
	for _, e := range cert.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		user, domain, found := strings.Cut(principal(e.Value), "@")
		if found && user != "" && (hostname == domain || strings.HasSuffix(hostname, "."+domain)) {
			return user, nil
		}
	}
	return "", fmt.Errorf("the certificate has no principal name of %s", hostname)
}

// principal finds the user principal name among alternative names: an
// otherName with Microsoft's object identifier.
func principal(names []byte) string {
	var list []asn1.RawValue
	if _, err := asn1.Unmarshal(names, &list); err != nil {
		return ""
	}
	for _, name := range list {
		var oid asn1.ObjectIdentifier
		if name.Class != asn1.ClassContextSpecific || name.Tag != 0 {
			continue
		}
		rest, err := asn1.Unmarshal(name.Bytes, &oid)
		if err != nil || !oid.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}) {
			continue
		}
		var explicit asn1.RawValue
		var text string
		if _, err := asn1.Unmarshal(rest, &explicit); err != nil {
			continue
		}
		if _, err := asn1.Unmarshal(explicit.Bytes, &text); err == nil {
			return text
		}
	}
	return ""
}
