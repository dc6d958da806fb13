// The decoder.

package amf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Decode returns the values in p one after another. The error tells at which byte
// of p it stopped; the values before it are returned as well, for payloads with
// rubbish behind what matters.
func Decode(p []byte) ([]any, error) {
	d := decoder{p: p, left: MaxValues}
	var values []any
	for d.at < len(p) {
		v, err := d.value(0)
		if err != nil {
			return values, fmt.Errorf("AMF0 at byte %d of %d: %w", d.at, len(p), err)
		}
		values = append(values, v)
	}
	return values, nil
}

var errShort = errors.New("the payload ends within a value")

type decoder struct {
	p    []byte
	at   int // read so far
	left int // values that may still come
}

// take returns the next n bytes.
func (d *decoder) take(n int) ([]byte, error) {
	if len(d.p)-d.at < n {
		return nil, errShort
	}
	d.at += n
	return d.p[d.at-n : d.at], nil
}

func (d *decoder) byte() (byte, error) {
	b, err := d.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

func (d *decoder) uint16() (int, error) {
	b, err := d.take(2)
	if err != nil {
		return 0, err
	}
	return int(binary.BigEndian.Uint16(b)), nil
}

func (d *decoder) uint32() (uint32, error) {
	b, err := d.take(4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

func (d *decoder) number() (float64, error) {
	b, err := d.take(8)
	if err != nil {
		return 0, err
	}
	return math.Float64frombits(binary.BigEndian.Uint64(b)), nil
}

func (d *decoder) string() (string, error) {
	n, err := d.uint16()
	if err != nil {
		return "", err
	}
	b, err := d.take(n)
	return string(b), err
}

func (d *decoder) longString() (string, error) {
	n, err := d.uint32()
	if err != nil {
		return "", err
	}
	if int64(n) > int64(len(d.p)-d.at) {
		return "", errShort
	}
	b, err := d.take(int(n))
	return string(b), err
}

// value reads one value that lies in depth others.
func (d *decoder) value(depth int) (any, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("values are nested deeper than %d", MaxDepth)
	}
	if d.left--; d.left < 0 {
		return nil, fmt.Errorf("there are more than %d values", MaxValues)
	}
	marker, err := d.byte()
	if err != nil {
		return nil, err
	}
	switch marker {
	case markerNumber:
		return d.number()
	case markerBoolean:
		b, err := d.byte()
		return b != 0, err
	case markerString:
		return d.string()
	case markerLongString, markerXML:
		return d.longString()
	case markerNull:
		return nil, nil
	case markerUndefined, markerUnsupported:
		return Undefined{}, nil
	case markerReference:
		_, err := d.uint16()
		return Undefined{}, err
	case markerDate:
		ms, err := d.number()
		if err != nil {
			return nil, err
		}
		_, err = d.uint16() // the time zone, which is to be ignored (2.13)
		return Date(ms), err
	case markerObject:
		fields, err := d.fields(depth)
		return Object(fields), err
	case markerTypedObject:
		if _, err := d.string(); err != nil {
			return nil, err
		}
		fields, err := d.fields(depth)
		return Object(fields), err
	case markerECMAArray:
		// The count is a hint that many writers leave at 0 (2.10).
		if _, err := d.uint32(); err != nil {
			return nil, err
		}
		fields, err := d.fields(depth)
		return ECMAArray(fields), err
	case markerStrictArray:
		return d.array(depth)
	case markerAMF3:
		return nil, errors.New("AMF3 is not supported")
	}
	return nil, fmt.Errorf("unknown type marker 0x%02x", marker)
}

// fields reads up to the object end marker, or to the end of the payload where a
// writer has left that out.
func (d *decoder) fields(depth int) ([]Field, error) {
	var fields []Field
	for d.at < len(d.p) {
		key, err := d.string()
		if err != nil {
			return nil, err
		}
		if key == "" && d.at < len(d.p) && d.p[d.at] == markerObjectEnd {
			d.at++
			break
		}
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		fields = append(fields, Field{key, v})
	}
	return fields, nil
}

func (d *decoder) array(depth int) (Array, error) {
	n, err := d.uint32()
	if err != nil {
		return nil, err
	}
	if int64(n) > int64(len(d.p)-d.at) { // each value has at least its marker
		return nil, fmt.Errorf("an array of %d values cannot lie in %d bytes", n, len(d.p)-d.at)
	}
	var a Array
	for range n {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		a = append(a, v)
	}
	return a, nil
}
