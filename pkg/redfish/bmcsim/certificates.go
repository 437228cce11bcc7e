package bmcsim

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/certs"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const (
	certificateServiceURI = "/redfish/v1/CertificateService"
	httpsURI              = managerURI + "/NetworkProtocol/HTTPS/Certificates"
	truststoreURI         = managerURI + "/Truststore/Certificates"
	ldapURI               = accountServiceURI + "/LDAP/Certificates"
	mfaURI                = accountServiceURI + "/MultiFactorAuth/ClientCertificate/Certificates"
)

func certificateRoutes() []route {
	const actions = certificateServiceURI + "/Actions/CertificateService."
	const manager = "/redfish/v1/Managers/{manager}"
	return []route{
		{path: certificateServiceURI, do: gets(getCertificateService)},
		{path: certificateServiceURI + "/CertificateLocations", do: gets(getCertificateLocations)},
		{path: actions + "GenerateCSR", do: posts(auth.ConfigureManager, generateCSR)},
		{path: actions + "ReplaceCertificate", do: posts(auth.ConfigureManager, replaceCertificate)},
		{path: manager + "/NetworkProtocol/HTTPS/Certificates", do: map[string]deed{
			http.MethodGet:  {auth.Login, getCertificates},
			http.MethodPost: {auth.ConfigureManager, postCertificate},
		}},
		{path: manager + "/NetworkProtocol/HTTPS/Certificates/{certificate}", do: gets(getCertificate)},
		{path: manager + "/Truststore/Certificates", do: map[string]deed{
			http.MethodGet:  {auth.Login, getTruststore},
			http.MethodPost: {auth.ConfigureManager, postTruststore},
		}},
		{path: manager + "/Truststore/Certificates/{certificate}", do: map[string]deed{
			http.MethodGet:    {auth.Login, getTrusted},
			http.MethodDelete: {auth.ConfigureManager, deleteTrusted},
		}},
		{path: ldapURI, do: map[string]deed{
			http.MethodGet:  {auth.Login, getDirectoryCertificates},
			http.MethodPost: {auth.ConfigureManager, postCertificate},
		}},
		{path: mfaURI, head: true, do: gets(getMultiFactor)},
		{path: mfaURI + "/{certificate}", head: true, do: gets(getTrusted)},
	}
}

func getCertificateService(*BMC, *request) reply {
	action := func(name string, extra obj) obj {
		return merged(obj{"target": certificateServiceURI + "/Actions/CertificateService." + name}, extra)
	}
	return ok(obj{
		"@odata.id": certificateServiceURI, "@odata.type": "#CertificateService.v1_0_0.CertificateService",
		"Actions": obj{
			"#CertificateService.GenerateCSR":        action("GenerateCSR", nil),
			"#CertificateService.ReplaceCertificate": action("ReplaceCertificate", obj{"CertificateType@Redfish.AllowableValues": []string{"PEM"}}),
		},
		"CertificateLocations": hardware.Link(certificateServiceURI + "/CertificateLocations"),
		"Description":          "Actions available to manage certificates",
		"Id":                   "CertificateService", "Name": "Certificate Service",
	})
}

func getCertificateLocations(b *BMC, _ *request) reply {
	all := append(hardware.Links(truststoreURI, b.state.Trust.IDs()), hardware.Link(httpsURI+"/1"))
	return ok(obj{
		"@odata.id":   certificateServiceURI + "/CertificateLocations",
		"@odata.type": "#CertificateLocations.v1_0_0.CertificateLocations",
		"Description": "Defines a resource that an administrator can use in order to locate all certificates installed on a given service",
		"Id":          "CertificateLocations", "Name": "Certificate Locations",
		"Links": obj{"Certificates": all, "Certificates@odata.count": len(all)},
	})
}

func getCertificates(*BMC, *request) reply {
	return collection(httpsURI, "CertificateCollection", "HTTPS Certificates Collection", []string{"1"},
		obj{"Description": "A Collection of HTTPS certificate instances"})
}

// getDirectoryCertificates is empty: no directory service is simulated.
func getDirectoryCertificates(*BMC, *request) reply {
	return collection(ldapURI, "CertificateCollection", "LDAP Certificates Collection", nil,
		obj{"Description": "A Collection of LDAP certificate instances"})
}

// postCertificate always fails: there is one certificate, and it can only be
// replaced.
func postCertificate(*BMC, *request) reply {
	r := internalError()
	if o, isObj := r.body.(obj); isObj {
		o["Description"], o["Name"] = "HTTPS Certificate", "HTTPS Certificate"
	}
	return r
}

func getCertificate(b *BMC, q *request) reply {
	if id := q.args["certificate"]; id != "1" {
		return notFound("Certificate", id)
	}
	return certificateReply(httpsURI+"/1", "HTTPS Certificate", b.state.Certificate)
}

// certificateReply shows the first certificate of a PEM text, with a Location
// header even on GET.
func certificateReply(uri, name, text string) reply {
	cert, own, err := certs.First(text)
	if err != nil {
		return internalError()
	}
	r := ok(obj{
		"@odata.id": uri, "@odata.type": "#Certificate.v1_0_0.Certificate", "CertificateString": own,
		"Description": name, "Name": name, "Id": uri[strings.LastIndexByte(uri, '/')+1:],
		"Issuer": nameBody(cert.Issuer), "Subject": nameBody(cert.Subject), "KeyUsage": keyUsage(cert),
		"ValidNotAfter": cert.NotAfter.UTC().Format(clock.Seconds), "ValidNotBefore": cert.NotBefore.UTC().Format(clock.Seconds),
	})
	r.set("Location", uri)
	return r
}

func nameBody(n pkix.Name) obj {
	o := obj{}
	for key, values := range map[string][]string{
		"CommonName": {n.CommonName}, "Country": n.Country, "City": n.Locality, "State": n.Province,
		"Organization": n.Organization, "OrganizationalUnit": n.OrganizationalUnit,
	} {
		if len(values) > 0 && values[0] != "" {
			o[key] = values[0]
		}
	}
	return o
}

// keyUsage is one usage at most: the last that OpenBMC's manager finds.
func keyUsage(cert *x509.Certificate) []string {
	for _, u := range []struct {
		bit  x509.KeyUsage
		name string
	}{
		{x509.KeyUsageCRLSign, "CRLSigning"},
		{x509.KeyUsageCertSign, "KeyCertSign"},
		{x509.KeyUsageKeyAgreement, "KeyAgreement"},
		{x509.KeyUsageDataEncipherment, "DataEncipherment"},
		{x509.KeyUsageKeyEncipherment, "KeyEncipherment"},
		{x509.KeyUsageContentCommitment, "NonRepudiation"},
		{x509.KeyUsageDigitalSignature, "DigitalSignature"},
	} {
		if cert.KeyUsage&u.bit != 0 {
			return []string{u.name}
		}
	}
	return []string{}
}

func generateCSR(b *BMC, q *request) reply {
	v, r, valid := q.action(
		input.Field{Path: "CertificateCollection/@odata.id", Need: true}, input.Field{Path: "City", Need: true}, input.Field{Path: "CommonName", Need: true},
		input.Field{Path: "Country", Need: true}, input.Field{Path: "Organization", Need: true}, input.Field{Path: "OrganizationalUnit", Need: true},
		input.Field{Path: "State", Need: true}, input.Field{Path: "AlternativeNames", Kind: input.Texts}, input.Field{Path: "KeyUsage", Kind: input.Texts},
		input.Field{Path: "KeyPairAlgorithm"}, input.Field{Path: "KeyCurveId"}, input.Field{Path: "KeyBitLength", Kind: input.Int},
		input.Field{Path: "ChallengePassword"}, input.Field{Path: "ContactPerson"}, input.Field{Path: "Email"}, input.Field{Path: "GivenName"},
		input.Field{Path: "Initials"}, input.Field{Path: "Surname"}, input.Field{Path: "UnstructuredName"},
	)
	if !valid {
		return r
	}
	ask := certs.Request{Algorithm: certs.EC, Usage: "ServerAuthentication"}
	for path, to := range map[string]*string{
		"City": &ask.City, "CommonName": &ask.CommonName, "Country": &ask.Country, "Organization": &ask.Organization,
		"OrganizationalUnit": &ask.Unit, "State": &ask.State, "KeyPairAlgorithm": &ask.Algorithm, "KeyCurveId": &ask.Curve,
	} {
		if text, given := v.Text(path); given {
			*to = text
		}
	}
	ask.Alternatives, _ = v["AlternativeNames"].([]string)
	if refusal := refuseRequest(v, ask); refusal != nil {
		return *refusal
	}
	return b.makeRequest(q, ask)
}

// refuseRequest are the parameters that OpenBMC does not take.
func refuseRequest(v input.Values, ask certs.Request) *reply {
	const action = "GenerateCSR"
	uri, _ := v.Text("CertificateCollection/@odata.id")
	usages, _ := v["KeyUsage"].([]string)
	bits, sized := v.Int("KeyBitLength")
	var r reply
	switch {
	case uri != httpsURI && uri != ldapURI:
		r = badRequest("ActionParameterNotSupported", "CertificateCollection", action)
	case ask.Algorithm != certs.EC && ask.Algorithm != certs.RSA:
		r = badRequest("ActionParameterNotSupported", "KeyPairAlgorithm", action)
	case ask.Algorithm == certs.RSA && sized && bits != 2048:
		r = badRequest("PropertyValueNotInList", input.Compact(bits), "KeyBitLength")
	case len(usages) > 1:
		r = badRequest("ActionParameterNotSupported", "KeyUsage", action)
	case len(usages) == 1 && usages[0] != "ServerAuthentication":
		r = badRequest("PropertyValueNotInList", message.Quoted(usages[0]), "KeyUsage")
	default:
		return nil
	}
	return &r
}

// makeRequest answers after a moment, in which others are served; one more
// GenerateCSR then is told to come again.
func (b *BMC) makeRequest(q *request, ask certs.Request) reply {
	if q.now.Before(b.csrUntil) {
		r := failure(http.StatusServiceUnavailable, message.New("ServiceTemporarilyUnavailable", "10"))
		r.set("Retry-After", "10")
		return r
	}
	keys := b.state.Requests
	text, err := ask.Make(&keys, b.cfg.Rand)
	if err != nil {
		return internalError()
	}
	b.state.Requests, q.dirty = keys, true
	b.csrUntil = q.now.Add(b.cfg.CSRTime)
	r := ok(obj{"CSRString": text, "CertificateCollection": hardware.Link(httpsURI)})
	r.after = b.cfg.CSRTime
	return r
}

func replaceCertificate(b *BMC, q *request) reply {
	v, r, valid := q.action(input.Field{Path: "CertificateString", Need: true}, input.Field{Path: "CertificateType"},
		input.Field{Path: "CertificateUri/@odata.id", Need: true})
	if !valid {
		return r
	}
	if kind, given := v.Text("CertificateType"); given && kind != "PEM" {
		return badRequest("ActionParameterNotSupported", "CertificateType", "ReplaceCertificate")
	}
	text, _ := v.Text("CertificateString")
	uri, _ := v.Text("CertificateUri/@odata.id")
	cut := max(strings.LastIndexByte(uri, '/'), 0)
	id := strings.TrimPrefix(uri[cut:], "/")
	switch uri[:cut] {
	case httpsURI:
		if id != "1" {
			return notFound("Certificate", id)
		}
		return b.install(q, text)
	case truststoreURI:
		return b.replaceTrusted(q, id, text)
	}
	return badRequest("ActionParameterNotSupported", "CertificateUri", "ReplaceCertificate")
}

// install changes the served certificate: the next handshake shows the new one,
// open connections stay.
func (b *BMC) install(q *request, text string) reply {
	pair, err := certs.Install(text, b.state.Requests)
	if err != nil {
		return badRequest("PropertyValueIncorrect", "Certificate", input.Compact(text))
	}
	changed := *b.state
	changed.Certificate, changed.Key = pair.Chain, pair.Key
	if err := b.adopt(&changed); err != nil {
		return internalError()
	}
	q.dirty = true
	return certificateReply(httpsURI+"/1", "HTTPS certificate", pair.Chain)
}

// adopt takes over a state with another certificate or truststore, if it can
// be served.
func (b *BMC) adopt(changed *State) error {
	served, err := changed.keyPair()
	if err != nil {
		return err
	}
	b.cert = served
	*b.state = *changed
	b.subscribe() // listeners are checked against the truststore too
	return nil
}

func getTruststore(b *BMC, _ *request) reply {
	return collection(truststoreURI, "CertificateCollection", "TrustStore Certificates Collection", b.state.Trust.IDs(),
		obj{"Description": "A Collection of TrustStore certificate instances"})
}

func getMultiFactor(b *BMC, _ *request) reply {
	return collection(mfaURI, "CertificateCollection", "Certificates Collection", b.state.Trust.IDs(),
		obj{"Description": "Multi-factor Authentication Client Certificates"})
}

// postTruststore answers 200, and 500 to whatever it does not take.
func postTruststore(b *BMC, q *request) reply {
	v, r, valid := q.action(input.Field{Path: "CertificateString", Need: true}, input.Field{Path: "CertificateType"})
	if !valid {
		return r
	}
	text, _ := v.Text("CertificateString")
	changed := *b.state
	id, err := changed.Trust.Add(text)
	if err == nil {
		err = b.adopt(&changed)
	}
	if err != nil {
		return internalError()
	}
	q.dirty = true
	return certificateReply(truststoreURI+"/"+id, "TrustStore Certificate", text)
}

func getTrusted(b *BMC, q *request) reply {
	id := q.args["certificate"]
	text, found := b.state.Trust.Get(id)
	if !found {
		return notFound("Certificate", id)
	}
	return certificateReply(truststoreURI+"/"+id, "TrustStore Certificate", text)
}

func (b *BMC) replaceTrusted(q *request, id, text string) reply {
	changed := *b.state
	if !slices.Contains(changed.Trust.IDs(), id) {
		return notFound("Certificate", id)
	}
	err := changed.Trust.Replace(id, text)
	if err == nil {
		err = b.adopt(&changed)
	}
	if err != nil {
		return badRequest("PropertyValueIncorrect", "Certificate", input.Compact(text))
	}
	q.dirty = true
	return certificateReply(truststoreURI+"/"+id, "TrustStore certificate", text)
}

func deleteTrusted(b *BMC, q *request) reply {
	id := q.args["certificate"]
	changed := *b.state
	if err := changed.Trust.Delete(id); err != nil {
		return notFound("Certificate", id)
	}
	if err := b.adopt(&changed); err != nil {
		return internalError()
	}
	q.dirty = true
	return noContent()
}
