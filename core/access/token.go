// Signed tokens: what they must say of a client.

package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/mediad/mediad/core/stage"
)

// minSecret is the shortest secret in bytes (RFC 7518, 3.2, asks for 32 with HS256).
const minSecret = 32

// leeway is how far clocks may differ.
const leeway = 10 * time.Second

// claims are what a token says. Beside the registered ones (RFC 7519, 4.1), of
// which exp must be there:
//
//	name     "live/show", or a pattern such as "live/*" (one part of a name)
//	actions  ["play"] when it is missing; "publish" must be said
//	address  an address or a network; any when it is missing
//	viewers  how many may watch with the token at a time; any number when it is missing
type claims struct {
	jwt.RegisteredClaims
	Name    string   `json:"name"`
	Actions []Action `json:"actions,omitempty"`
	Address string   `json:"address,omitempty"`
	Viewers int      `json:"viewers,omitempty"`
	raw     string
}

// user is what the viewers with one token are counted by.
func (c claims) user() string {
	if c.ID != "" {
		return c.ID
	}
	return c.raw
}

// A verifier checks tokens. A nil one finds all right.
type verifier struct {
	key    any
	parser *jwt.Parser
}

func newVerifier(s Settings) (*verifier, error) {
	switch {
	case s.Secret != "":
		return verify([]byte(s.Secret), "HS256"), nil
	case s.PublicKey == "":
		return nil, nil
	}
	key, err := readKey(s.PublicKey)
	if err != nil {
		return nil, stage.Wrong("access.public-key", "%w", err)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return verify(key, "RS256"), nil
	case *ecdsa.PublicKey:
		return verify(key, "ES256"), nil
	case ed25519.PublicKey:
		return verify(key, "EdDSA"), nil
	}
	return nil, stage.Wrong("access.public-key", "%s: a %T is no key of RSA, ECDSA or Ed25519", s.PublicKey, key)
}

// verify returns a verifier for one method: the token itself may not choose it.
func verify(key any, method string) *verifier {
	return &verifier{key, jwt.NewParser(jwt.WithValidMethods([]string{method}), jwt.WithExpirationRequired(), jwt.WithLeeway(leeway))}
}

func readKey(file string) (crypto.PublicKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s has no PEM block (-----BEGIN PUBLIC KEY-----)", file)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// verify returns what the token of r says, if that is what r asks for.
func (v *verifier) verify(r Request) (claims, error) {
	if v == nil {
		return claims{}, nil
	}
	c, err := v.read(r)
	if err != nil {
		return c, err
	}
	if ok, err := path.Match(c.Name, r.target()); err != nil || !ok {
		return c, fmt.Errorf("the token is for %q", c.Name)
	}
	if len(c.Actions) == 0 {
		c.Actions = []Action{Play}
	}
	if !slices.Contains(c.Actions, r.Action) {
		return c, fmt.Errorf("the token is not for action %q", r.Action)
	}
	return c, c.from(r.Address)
}

// read returns what the token of r says.
func (v *verifier) read(r Request) (c claims, err error) {
	c.raw = r.Params.Get("token")
	if c.raw == "" {
		return c, errors.New("a token is missing, it is sent as NAME?token=TOKEN")
	}
	_, err = v.parser.ParseWithClaims(c.raw, &c, func(*jwt.Token) (any, error) { return v.key, nil })
	return c, err
}

// from checks the address that the token is for.
func (c claims) from(a netip.Addr) error {
	if c.Address == "" {
		return nil
	}
	if one, err := netip.ParseAddr(c.Address); err == nil && one.Unmap() == a {
		return nil
	}
	if net, err := netip.ParsePrefix(c.Address); err == nil && net.Contains(a) {
		return nil
	}
	return errors.New("the token is for another address")
}
