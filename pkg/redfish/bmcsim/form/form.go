// Package form writes JSON in the forms that bmcweb offers: CBOR, a page for
// browsers, and zstd around any of them. It is pure.
package form

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"html"
	"maps"
	"math"
	"slices"
	"strings"
)

// JSON is the media type of what is not asked for otherwise.
const JSON = "application/json"

// Encode is a JSON body in the form that a client with this Accept header would
// rather have, CBOR, a page for browsers or JSON, and its media type.
func Encode(accept string, text []byte) ([]byte, string) {
	switch {
	case strings.Contains(accept, "application/cbor"):
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		var v any
		if dec.Decode(&v) == nil {
			return appendCBOR(nil, v), "application/cbor"
		}
	case strings.Contains(accept, "text/html"):
		return page(text), "text/html;charset=UTF-8"
	}
	return text, JSON
}

// Zstd is text as zstandard (RFC 8878) in blocks that are not compressed:
// OpenBMC sends zstd to those who take it, and any decoder reads this.
func Zstd(text []byte) []byte {
	const block = 128 << 10
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0} // magic; one segment, size in four bytes
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	for {
		n := min(len(text), block)
		head := uint32(n) << 3
		if n == len(text) {
			head |= 1 // the last
		}
		b = append(b, byte(head), byte(head>>8), byte(head>>16))
		b = append(b, text[:n]...)
		if text = text[n:]; len(text) == 0 {
			return b
		}
	}
}

// page shows JSON to a browser.
func page(text []byte) []byte {
	return []byte("<html>\n<head>\n<title>Redfish API</title>\n</head>\n<body><pre>" + html.EscapeString(string(text)) + "</pre></body>\n</html>\n")
}

// Major types of CBOR (RFC 8949).
const (
	cborUint, cborNegative, cborText, cborArray, cborMap = 0 << 5, 1 << 5, 3 << 5, 4 << 5, 5 << 5

	cborFalse, cborTrue, cborNull, cborFloat = 0xf4, 0xf5, 0xf6, 0xfb
)

func appendCBOR(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, cborNull)
	case bool:
		if v {
			return append(b, cborTrue)
		}
		return append(b, cborFalse)
	case string:
		return append(cborHead(b, cborText, uint64(len(v))), v...)
	case json.Number:
		return cborNumber(b, v)
	case []any:
		b = cborHead(b, cborArray, uint64(len(v)))
		for _, item := range v {
			b = appendCBOR(b, item)
		}
	case map[string]any:
		b = cborHead(b, cborMap, uint64(len(v)))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b = appendCBOR(appendCBOR(b, key), v[key])
		}
	}
	return b
}

func cborNumber(b []byte, n json.Number) []byte {
	if i, err := n.Int64(); err == nil {
		if i < 0 {
			return cborHead(b, cborNegative, uint64(-1-i))
		}
		return cborHead(b, cborUint, uint64(i))
	}
	f, _ := n.Float64()
	return binary.BigEndian.AppendUint64(append(b, cborFloat), math.Float64bits(f))
}

// cborHead is the type and the length of a value, in the shortest form.
func cborHead(b []byte, kind byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, kind|byte(n))
	case n < 1<<8:
		return append(b, kind|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, kind|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, kind|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, kind|27), n)
}
