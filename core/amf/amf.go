// Package amf reads and writes AMF0, the encoding of RTMP commands and of FLV
// metadata (Action Message Format, AMF 0, Adobe 2007). What it reads may come
// from anyone, so nesting and the number of values are bounded, and no count in
// the payload is believed before the values it announces have been seen.
//
// A value is a float64, bool, string, Object, ECMAArray, Array, Date, Undefined
// or nil.
package amf

// Bounds of what Decode takes. MaxValues has room for the keyframe index of a
// recording of three days with a keyframe every two seconds.
const (
	MaxDepth  = 16
	MaxValues = 1 << 18
)

// A Field is one named value of an Object or an ECMAArray.
type Field struct {
	Key   string
	Value any
}

// An Object is fields in the order they were written. Typed objects are decoded
// to one too, without the name of their class.
type Object []Field

// Get returns the value of the first field of that name, nil when there is none.
func (o Object) Get(key string) any {
	for _, f := range o {
		if f.Key == key {
			return f.Value
		}
	}
	return nil
}

// An ECMAArray is an array with names for indices: an Object in all but its marker.
type ECMAArray []Field

// Get returns the value of the first field of that name, nil when there is none.
func (a ECMAArray) Get(key string) any { return Object(a).Get(key) }

// An Array is a strict array: values without names.
type Array []any

// Undefined is the undefined value. References and the unsupported marker are
// decoded to it as well.
type Undefined struct{}

// A Date is a time in milliseconds since 1970 in UTC.
type Date float64

// The type markers (AMF 0, 2.1).
const (
	markerNumber      = 0x00
	markerBoolean     = 0x01
	markerString      = 0x02
	markerObject      = 0x03
	markerNull        = 0x05
	markerUndefined   = 0x06
	markerReference   = 0x07
	markerECMAArray   = 0x08
	markerObjectEnd   = 0x09
	markerStrictArray = 0x0a
	markerDate        = 0x0b
	markerLongString  = 0x0c
	markerUnsupported = 0x0d
	markerXML         = 0x0f
	markerTypedObject = 0x10
	markerAMF3        = 0x11
)
