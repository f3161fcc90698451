package transport

import "github.com/devicekeys/devicekeys/detcbor"

// Again reads a blob and writes what it read.
func Again(blob []byte) ([]byte, error) {
	w, err := parse(blob)
	if err != nil {
		return nil, err
	}
	return detcbor.Marshal(w)
}
