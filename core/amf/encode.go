// The encoder.

package amf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Append appends the values to dst. An int is written as a number. It panics on
// a value of another type than the package has, and on a key above 65535 bytes:
// both are mistakes of the caller, for no decoded value is like that.
func Append(dst []byte, values ...any) []byte {
	for _, v := range values {
		dst = appendValue(dst, v)
	}
	return dst
}

func appendValue(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, markerNull)
	case Undefined:
		return append(dst, markerUndefined)
	case bool:
		if v {
			return append(dst, markerBoolean, 1)
		}
		return append(dst, markerBoolean, 0)
	case int:
		return appendNumber(append(dst, markerNumber), float64(v))
	case float64:
		return appendNumber(append(dst, markerNumber), v)
	case Date:
		return append(appendNumber(append(dst, markerDate), float64(v)), 0, 0)
	case string:
		if len(v) > math.MaxUint16 {
			dst = binary.BigEndian.AppendUint32(append(dst, markerLongString), uint32(len(v)))
			return append(dst, v...)
		}
		return appendString(append(dst, markerString), v)
	case Object:
		return appendFields(append(dst, markerObject), v)
	case ECMAArray:
		dst = binary.BigEndian.AppendUint32(append(dst, markerECMAArray), uint32(len(v)))
		return appendFields(dst, v)
	case Array:
		dst = binary.BigEndian.AppendUint32(append(dst, markerStrictArray), uint32(len(v)))
		return Append(dst, v...)
	}
	panic(fmt.Sprintf("amf: cannot encode a %T", v))
}

func appendNumber(dst []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(f))
}

func appendString(dst []byte, s string) []byte {
	if len(s) > math.MaxUint16 {
		panic(fmt.Sprintf("amf: a key of %d bytes", len(s)))
	}
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

func appendFields(dst []byte, fields []Field) []byte {
	for _, f := range fields {
		dst = appendValue(appendString(dst, f.Key), f.Value)
	}
	return append(dst, 0, 0, markerObjectEnd)
}
