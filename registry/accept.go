package registry

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// negotiate gives the media type to answer in: the one of CBOR and JSON that
// the client likes better, CBOR where it has no preference (RFC 9110 §12.5.1).
// ok is false where it takes neither.
func negotiate(r *http.Request) (media string, ok bool) {
	lines := r.Header.Values("Accept")
	if len(lines) == 0 {
		return MediaCBOR, true
	}
	if len(lines) == 1 { // what nearly all say, without the work of reading it
		switch lines[0] {
		case MediaCBOR, "*/*":
			return MediaCBOR, true
		case MediaJSON:
			return MediaJSON, true
		}
	}
	qCBOR, qJSON := quality(lines, MediaCBOR), quality(lines, MediaJSON)
	switch {
	case qCBOR == 0 && qJSON == 0:
		return "", false
	case qJSON > qCBOR:
		return MediaJSON, true
	}
	return MediaCBOR, true
}

// quality gives how much the Accept lines like a media type of the form
// application/x: the weight of the most specific range that covers it.
func quality(lines []string, media string) float64 {
	q, best := 0.0, 0
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			m, params, err := mime.ParseMediaType(part)
			if err != nil {
				continue // RFC 9110 leaves malformed ranges to the server
			}
			specific := 0
			switch m {
			case media:
				specific = 3
			case "application/*":
				specific = 2
			case "*/*":
				specific = 1
			}
			if specific <= best {
				continue
			}
			weight := 1.0
			if s, has := params["q"]; has {
				if weight, err = strconv.ParseFloat(s, 64); err != nil || !(weight >= 0 && weight <= 1) {
					continue
				}
			}
			q, best = weight, specific
		}
	}
	return q
}

// matches reports whether an If-None-Match field names the entity tag, in the
// weak comparison it is made in (RFC 9110 §13.1.2).
func matches(r *http.Request, etag string) bool {
	for _, line := range r.Header.Values("If-None-Match") {
		for part := range strings.SplitSeq(line, ",") {
			part = strings.TrimSpace(part)
			if part == "*" || strings.TrimPrefix(part, "W/") == etag {
				return true
			}
		}
	}
	return false
}
