package seal

import (
	"encoding/base64"
	"encoding/binary"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

const textPrefix = "chiba-recovery-1."

// Text is the public half of k, as it stands in a configuration.
func (k *Key) Text() string {
	return textPrefix + base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint64(nil, k.epoch), k.public...))
}

// ParseText reads what Text has written, as a recipient for a rack.
func ParseText(text, rack string) (Recipient, error) {
	rest, ok := strings.CutPrefix(text, textPrefix)
	raw, err := base64.RawURLEncoding.DecodeString(rest)
	if !ok || err != nil || len(raw) != epochSize+keySize {
		return Recipient{}, fault.New(fault.BadInput, "read the recovery key", "it is not "+textPrefix+" and 54 letters").
			WithHint("chiba agent recovery-key --out FILE makes one, and shows it")
	}
	return Recipient{Rack: rack, Epoch: binary.BigEndian.Uint64(raw), Key: raw[epochSize:]}, nil
}
