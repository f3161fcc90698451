package call

import (
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
)

// The methods that every device service has.
const (
	MethodTime   = "time"   // no body → Time
	MethodStatus = "status" // no body → DeviceStatus
	MethodEcho   = "echo"   // anything → the same
)

// maxBody bounds the bodies of this file, in bytes.
const maxBody = 64

// DeviceStatus is what the service knows of the device that it speaks with.
type DeviceStatus struct {
	Generation identity.Generation // of the channel's key
	Newest     identity.Generation // in the field, 0 where none is
	Active     bool                // the channel's generation is in the field; where it isn't, the channel ends
}

type statusWire struct {
	_          struct{} `cbor:",toarray"`
	Version    uint
	Generation identity.Generation
	Newest     identity.Generation
	Active     bool
}

// Superseded tells whether a later generation took this one's place.
func (s DeviceStatus) Superseded() bool { return s.Newest > s.Generation }

// Encode gives the body: [1, generation, newest, active].
func (s DeviceStatus) Encode() []byte {
	return detcbor.Must(statusWire{Version: version, Generation: s.Generation, Newest: s.Newest, Active: s.Active})
}

// ParseStatus reads what Encode wrote.
func ParseStatus(b []byte) (DeviceStatus, error) {
	var w statusWire
	err := detcbor.Unmarshal(b, &w, maxBody)
	if err == nil && w.Version != version {
		err = fmt.Errorf("version %d is not known, %d is", w.Version, version)
	}
	if err != nil {
		return DeviceStatus{}, fmt.Errorf("parse device status: %w", err)
	}
	return DeviceStatus{w.Generation, w.Newest, w.Active}, nil
}

type timeWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Millis  uint64 // since 1970, without leap seconds
}

// EncodeTime gives the body [1, milliseconds since 1970].
func EncodeTime(t time.Time) []byte {
	return detcbor.Must(timeWire{Version: version, Millis: uint64(max(t.UnixMilli(), 0))})
}

// maxMillis is the end of the year 9999.
const maxMillis = 253402300799999

// ParseTime reads what EncodeTime wrote.
func ParseTime(b []byte) (time.Time, error) {
	var w timeWire
	err := detcbor.Unmarshal(b, &w, maxBody)
	switch {
	case err != nil:
	case w.Version != version:
		err = fmt.Errorf("version %d is not known, %d is", w.Version, version)
	case w.Millis > maxMillis:
		err = fmt.Errorf("%d milliseconds are after the year 9999", w.Millis)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("parse time: %w", err)
	}
	return time.UnixMilli(int64(w.Millis)), nil
}

type retryWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Seconds uint32
}

// EncodeRetry gives the body of Busy: [1, seconds], rounded up.
func EncodeRetry(after time.Duration) []byte {
	seconds := (max(after, 0) + time.Second - 1) / time.Second
	return detcbor.Must(retryWire{Version: version, Seconds: uint32(min(seconds, 1<<31))})
}

// ParseRetry reads what EncodeRetry wrote.
func ParseRetry(b []byte) (time.Duration, error) {
	var w retryWire
	err := detcbor.Unmarshal(b, &w, maxBody)
	if err == nil && w.Version != version {
		err = fmt.Errorf("version %d is not known, %d is", w.Version, version)
	}
	if err != nil {
		return 0, fmt.Errorf("parse time to retry: %w", err)
	}
	return time.Duration(w.Seconds) * time.Second, nil
}
