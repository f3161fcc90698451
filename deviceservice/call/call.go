// Package call is what device and service say to each other inside a channel: one request, one answer, in order. It is a
// pure value: no I/O.
//
// A message of the channel carries one of them, as deterministic CBOR:
//
//	request  [1, id, method, body]    id counts the requests of a channel from 1; method "time", "status", "echo", …
//	answer   [1, id, status, body]    the request's id; 0 is success, everything else one of the statuses below
//
// Bodies belong to their methods. A message that is none of these ends the channel: the peer is authentic, so it is a
// fault in a program and not an attack, and nothing after it can be trusted to be in step.
package call

import (
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
)

// Limits, in bytes.
const (
	MaxBody    = 256 << 10     // of a request or an answer
	MaxMessage = MaxBody + 128 // with its frame
	MaxMethod  = 32
)

// version of the frames.
const version = 1

// Status says what became of a request. The numbers are part of the format.
type Status uint8

// The statuses.
const (
	OK      Status = 0
	Unknown Status = 1 // no such method
	Bad     Status = 2 // the body is none of this method
	Refused Status = 3 // the device is no longer admitted; the channel ends with this answer
	Busy    Status = 4 // not now; the body says when (ParseRetry)
	Failed  Status = 5 // the service's own fault, which its log tells
)

var names = map[Status]string{OK: "ok", Unknown: "unknown-method", Bad: "bad-request", Refused: "refused", Busy: "busy", Failed: "failed"}

// String gives the name that metrics and logs use.
func (s Status) String() string {
	if n, ok := names[s]; ok {
		return n
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Error makes a status an error of a call.
func (s Status) Error() string { return "the device service answers: " + s.String() }

// Request asks for something.
type Request struct {
	ID     uint64
	Method string
	Body   []byte
}

// Answer says what became of a request.
type Answer struct {
	ID     uint64
	Status Status
	Body   []byte
}

type requestWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	ID      uint64
	Method  string
	Body    []byte
}

type answerWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	ID      uint64
	Status  Status
	Body    []byte
}

// Encode gives the request's one encoding.
func (r Request) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	return detcbor.Marshal(requestWire{Version: version, ID: r.ID, Method: r.Method, Body: bytes(r.Body)})
}

func (r Request) check() error {
	switch {
	case r.ID == 0:
		return fmt.Errorf("its id is 0: ids begin with 1")
	case r.Method == "" || len(r.Method) > MaxMethod:
		return fmt.Errorf("its method has %d bytes: 1 to %d are allowed", len(r.Method), MaxMethod)
	case len(r.Body) > MaxBody:
		return fmt.Errorf("its body has %d bytes, at most %d are allowed", len(r.Body), MaxBody)
	}
	for _, c := range r.Method {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("its method %q has another character than a lower-case letter, digit or hyphen", r.Method)
		}
	}
	return nil
}

// ParseRequest reads what Encode wrote, and nothing else.
func ParseRequest(b []byte) (Request, error) {
	var w requestWire
	if err := detcbor.Unmarshal(b, &w, MaxMessage); err != nil {
		return Request{}, fmt.Errorf("parse request: %w", err)
	}
	r := Request{w.ID, w.Method, w.Body}
	if w.Body == nil { // CBOR's null
		return Request{}, fmt.Errorf("parse request: its body is no byte string")
	}
	if w.Version != version {
		return Request{}, fmt.Errorf("parse request: version %d is not known, %d is", w.Version, version)
	}
	if err := r.check(); err != nil {
		return Request{}, fmt.Errorf("parse request: %w", err)
	}
	return r, nil
}

// Encode gives the answer's one encoding.
func (a Answer) Encode() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return detcbor.Marshal(answerWire{Version: version, ID: a.ID, Status: a.Status, Body: bytes(a.Body)})
}

func (a Answer) check() error {
	switch _, known := names[a.Status]; {
	case a.ID == 0:
		return fmt.Errorf("its id is 0: ids begin with 1")
	case !known:
		return fmt.Errorf("%s is not known", a.Status)
	case len(a.Body) > MaxBody:
		return fmt.Errorf("its body has %d bytes, at most %d are allowed", len(a.Body), MaxBody)
	}
	return nil
}

// ParseAnswer reads what Encode wrote, and nothing else.
func ParseAnswer(b []byte) (Answer, error) {
	var w answerWire
	if err := detcbor.Unmarshal(b, &w, MaxMessage); err != nil {
		return Answer{}, fmt.Errorf("parse answer: %w", err)
	}
	a := Answer{w.ID, w.Status, w.Body}
	if w.Body == nil { // CBOR's null
		return Answer{}, fmt.Errorf("parse answer: its body is no byte string")
	}
	if w.Version != version {
		return Answer{}, fmt.Errorf("parse answer: version %d is not known, %d is", w.Version, version)
	}
	if err := a.check(); err != nil {
		return Answer{}, fmt.Errorf("parse answer: %w", err)
	}
	return a, nil
}

// bytes is a byte string even where it is empty: nil would be CBOR's null.
func bytes(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
