package registry

import (
	"encoding/json"
	"fmt"
	"time"
)

// Problem is the body of every error answer (RFC 9457, with one member more).
type Problem struct {
	Type   string `json:"type"`           // where the problem is documented, relative to the server
	Title  string `json:"title"`          // the same for every occurrence
	Status int    `json:"status"`         // the HTTP status code
	Detail string `json:"detail"`         // this occurrence
	Next   string `json:"next,omitempty"` // what to do about it
}

// StatusError is an answer of the registry that is no entry. It matches
// ErrNotFound and ErrErased where the server said so.
type StatusError struct {
	Status     int
	Problem    Problem       // empty where the server, or something before it, sent none
	RetryAfter time.Duration // 0 where the server named none
	cause      error
}

// Error gives what the server said.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("the registry answered %d", e.Status)
	if e.Problem.Title != "" {
		s += ": " + e.Problem.Title
	}
	if e.Problem.Detail != "" {
		s += ": " + e.Problem.Detail
	}
	if e.RetryAfter > 0 {
		s += fmt.Sprintf(" (try again in %s)", e.RetryAfter)
	}
	return s
}

// Next gives the server's advice.
func (e *StatusError) Next() string { return e.Problem.Next }

// Unwrap gives ErrNotFound or ErrErased, or nil.
func (e *StatusError) Unwrap() error { return e.cause }

// maxProblem bounds the body of an error answer that a client reads, in bytes.
const maxProblem = 16 << 10

// parseProblem reads a problem as far as it is one: an answer by something
// before the registry has another body, and its status says enough.
func parseProblem(b []byte) Problem {
	var p Problem
	if json.Unmarshal(b, &p) != nil {
		return Problem{}
	}
	const most = 1 << 10
	for _, s := range []*string{&p.Type, &p.Title, &p.Detail, &p.Next} {
		if len(*s) > most {
			*s = (*s)[:most]
		}
	}
	return p
}
