// Records as a bucket of NATS has them: b.CHANNEL for the owner's, h.CHANNEL.NODE for
// that of a node that repeats the channel, the names in base64, the rest as JSON.

package cluster

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mediad/mediad/core/media"
)

var base64url = base64.RawURLEncoding

func (k Key) encode() string {
	channel := base64url.EncodeToString([]byte(k.Channel))
	if k.Holder == "" {
		return "b." + channel
	}
	return "h." + channel + "." + base64url.EncodeToString([]byte(k.Holder))
}

func decodeKey(text string) (Key, error) {
	parts := strings.Split(text, ".")
	if len(parts) < 2 || len(parts) != map[string]int{"b": 2, "h": 3}[parts[0]] {
		return Key{}, fmt.Errorf("the key %q is of no known kind", text)
	}
	channel, err := base64url.DecodeString(parts[1])
	if err != nil {
		return Key{}, fmt.Errorf("the key %q: %w", text, err)
	}
	k := Key{Channel: string(channel)}
	if err := media.CheckName(k.Channel); err != nil {
		return Key{}, fmt.Errorf("the key %q: %w", text, err)
	}
	if parts[0] == "h" {
		holder, err := base64url.DecodeString(parts[2])
		if err != nil {
			return Key{}, fmt.Errorf("the key %q: %w", text, err)
		}
		k.Holder = string(holder)
		return k, checkNode(k.Holder)
	}
	return k, nil
}

func (r Record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // a plain struct
	}
	return b
}

// decodeRecord reads what a bucket has under a key; removed says that it is a
// mark of a removal, without a value.
func decodeRecord(key string, value []byte, revision uint64, removed bool) (Record, error) {
	k, err := decodeKey(key)
	if err != nil {
		return Record{}, err
	}
	r := Record{Key: k, Revision: revision}
	if removed {
		return r, nil
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return Record{}, fmt.Errorf("the record of %s: %w", k.Channel, err)
	}
	if r.Session == "" {
		return Record{}, fmt.Errorf("the record of %s has no session", k.Channel)
	}
	for _, node := range append([]string{r.Node}, r.Path...) {
		if err := checkNode(node); err != nil {
			return Record{}, fmt.Errorf("the record of %s: %w", k.Channel, err)
		}
	}
	return r, nil
}
