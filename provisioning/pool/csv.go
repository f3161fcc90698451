package pool

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/devicekeys/devicekeys/identity"
)

// Refused is a line of an import file that was not taken, and why.
type Refused struct {
	Line   int    `json:"line"`   // from 1
	Text   string `json:"text"`   // its beginning, as it stands there
	Reason string `json:"reason"` // for people
}

// Options bounds what ReadCSV takes. The zero value takes any identity of the
// type, up to the limits of one batch.
type Options struct {
	// Within lists what the product line may have; empty: anything.
	Within []Range
	// MaxIdentities is the most identities read; 0 means MaxImport.
	MaxIdentities int
	// MaxBytes is the most bytes read; 0 means DefaultMaxBytes.
	MaxBytes int64
}

// Bounds of an import file.
const (
	DefaultMaxBytes = 32 << 20 // a million identities with their line ends take 17 MB
	maxLineBytes    = 1024
	maxRefused      = 10_000 // a file with more is of another kind
	shownText       = 64     // characters of a refused line
)

// Errors of ReadCSV.
var (
	// ErrTooLong says that a file has more bytes or identities than allowed.
	ErrTooLong = errors.New("the file is too long for one batch: split it")
	// ErrNotIdentities says that so many lines were refused that the file must be another one.
	ErrNotIdentities = errors.New("too many lines are no identities: is this the right file?")
)

// ReadCSV reads a file of identities: one a line, for IMEIs with or without the
// check digit, or for IMEIs a range "TAC,first serial,last serial", both ends
// included. Lines may end in CRLF, fields may stand in quotes, a byte order mark,
// empty lines, lines that begin with "#" and one heading before the first
// identity are skipped.
//
// A line is taken whole or refused whole: for its form, a wrong check digit, an
// identity outside of Options.Within, or one that an earlier line has. The error
// is the reader's, or matches ErrTooLong or ErrNotIdentities; then nothing is to
// be imported.
func ReadCSV(r io.Reader, t identity.Type, o Options) (ids []identity.Identity, refused []Refused, err error) {
	if o.MaxIdentities == 0 {
		o.MaxIdentities = MaxImport
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	limited := &io.LimitedReader{R: r, N: o.MaxBytes + 1}
	in := bufio.NewReaderSize(limited, 2*maxLineBytes)
	seen := map[string]int{} // value → line
	heading := true
	for n := 1; ; n++ {
		text, long, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, nil, fmt.Errorf("read identities: line %d: %w", n, err)
		}
		if limited.N == 0 {
			return nil, nil, fmt.Errorf("read identities: more than %d bytes: %w", o.MaxBytes, ErrTooLong)
		}
		done := err != nil
		if n == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
		}
		text = strings.TrimSpace(text)
		if text == "" && done {
			return ids, refused, nil
		}
		if text != "" && text[0] != '#' {
			var line []identity.Identity
			err := fmt.Errorf("the line has more than %d bytes", maxLineBytes)
			if !long {
				line, err = parseLine(text, t, o, seen)
			}
			switch {
			case err == nil && len(ids)+len(line) > o.MaxIdentities:
				return nil, nil, fmt.Errorf("read identities: line %d: more than %d identities: %w", n, o.MaxIdentities, ErrTooLong)
			case err == nil:
				for _, id := range line {
					seen[id.Value()] = n
				}
				ids = append(ids, line...)
			case heading && !long && (!strings.ContainsAny(text, "0123456789") || strings.EqualFold(text, t.String())):
			case len(refused) == maxRefused:
				return nil, nil, fmt.Errorf("read identities: line %d: %w", n, ErrNotIdentities)
			default:
				refused = append(refused, Refused{Line: n, Text: shorten(text), Reason: err.Error()})
			}
			heading = false
		}
		if done {
			return ids, refused, nil
		}
	}
}

// readLine reads one line; of one that is too long it gives the beginning.
func readLine(in *bufio.Reader) (text string, long bool, err error) {
	var b []byte
	for {
		part, err := in.ReadSlice('\n')
		if room := maxLineBytes + 1 - len(b); len(part) <= room {
			b = append(b, part...)
		} else {
			b, long = append(b, part[:room]...), true
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			b = bytes.TrimRight(b, "\r\n")
			return string(b), long || len(b) > maxLineBytes, err
		}
	}
}

func parseLine(text string, t identity.Type, o Options, seen map[string]int) ([]identity.Identity, error) {
	fields := strings.Split(text, ",")
	for i, f := range fields {
		f = strings.TrimSpace(f)
		if len(f) >= 2 && f[0] == '"' && f[len(f)-1] == '"' {
			f = strings.TrimSpace(f[1 : len(f)-1])
		}
		fields[i] = f
	}
	check := func(id identity.Identity) error {
		if first, twice := seen[id.Value()]; twice {
			return fmt.Errorf("%s stands in line %d already", id, first)
		}
		if !inside(id.Value(), o.Within) {
			return fmt.Errorf("%s is outside of what the product line may have", id)
		}
		return nil
	}
	switch {
	case len(fields) == 1:
		id, err := identity.Parse(t, fields[0])
		if err != nil {
			return nil, err
		}
		return []identity.Identity{id}, check(id)
	case len(fields) == 3 && t == identity.TypeIMEI:
		return parseRange(fields, o.MaxIdentities, check)
	case t == identity.TypeIMEI:
		return nil, fmt.Errorf("%d fields: one IMEI, or TAC, first serial and last serial, are expected", len(fields))
	}
	return nil, fmt.Errorf("%d fields: one identity is expected", len(fields))
}

func parseRange(fields []string, most int, check func(identity.Identity) error) ([]identity.Identity, error) {
	tac, err := identity.ParseTAC(fields[0])
	if err != nil {
		return nil, err
	}
	var ends [2]int
	for i, f := range fields[1:] {
		n, err := strconv.ParseUint(f, 10, 32)
		if err != nil || n > 999_999 {
			return nil, fmt.Errorf("serial number %q: 0 to 999999 are allowed", f)
		}
		ends[i] = int(n)
	}
	if ends[0] > ends[1] {
		return nil, fmt.Errorf("the first serial number, %d, is above the last, %d", ends[0], ends[1])
	}
	if n := ends[1] - ends[0] + 1; n > most {
		return nil, fmt.Errorf("the range has %d identities, the batch may have %d", n, most)
	}
	var ids []identity.Identity
	for serial := ends[0]; serial <= ends[1]; serial++ {
		imei, err := tac.IMEI(serial)
		if err != nil {
			return nil, err
		}
		if err := check(imei); err != nil {
			return nil, err
		}
		ids = append(ids, imei)
	}
	return ids, nil
}

func inside(value string, within []Range) bool {
	return len(within) == 0 || slices.ContainsFunc(within, func(r Range) bool { return r.From <= value && value <= r.To })
}

// shorten gives a line's beginning as valid text.
func shorten(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if utf8.RuneCountInString(text) <= shownText {
		return text
	}
	return string([]rune(text)[:shownText]) + "…"
}
