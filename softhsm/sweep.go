package softhsm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// sweepPause lies between the two looks at a token before it is removed: whoever is making one without the lock
	// file needs some 20 ms for it.
	sweepPause = 200 * time.Millisecond

	maxConf        = 64 << 10 // bytes of a configuration
	maxTokenObject = 64 << 10 // bytes of a token.object, which has some 320
)

// Sweep removes, from the token directory that SOFTHSM2_CONF names, tokens whose making was killed. SoftHSM writes a
// token's file in several steps; a kill between them leaves one that it lists and can tell nothing of, or one without
// security officer's PIN that nobody can finish. Neither can ever hold a key. One of the first kind keeps crypto11, which
// asks every slot, from every token beside it; two that have no serial number yet make SoftHSM abort whatever process
// initialises it. So a program calls Sweep before [hsm.Load]. Tokens that hold an object, and what isn't SoftHSM's, are left alone.
//
// It holds lockFile meanwhile, as everyone does who makes tokens there (see [Directory.LockFile]). Without a lock file,
// or without SOFTHSM2_CONF, it does nothing. It gives the folders removed. A crash leaves a folder without a token,
// which SoftHSM doesn't list and the next Sweep removes. A module that is initialised already doesn't notice.
func Sweep(lockFile string) (removed []string, err error) {
	conf := os.Getenv(confVariable)
	if lockFile == "" || conf == "" {
		return nil, nil
	}
	if removed, err = sweep(conf, lockFile); errors.Is(err, fs.ErrNotExist) {
		return removed, nil // SoftHSM, if it is the module at all, says it better
	}
	if err != nil {
		return removed, fmt.Errorf("sweep the token directory of %q: %w", conf, err)
	}
	return removed, nil
}

func sweep(conf, lockFile string) (removed []string, err error) {
	tokens, err := tokenDir(conf)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(lockFile)
	if err != nil {
		return nil, err
	}
	defer unlock()
	before, err := halfMade(tokens)
	if err != nil || len(before) == 0 {
		return nil, err
	}
	time.Sleep(sweepPause)
	after, err := halfMade(tokens)
	if err != nil {
		return nil, err
	}
	for folder, since := range after {
		if at, ok := before[folder]; !ok || !at.Equal(since) {
			continue
		}
		if err := removeToken(folder); err != nil {
			return removed, err
		}
		removed = append(removed, folder)
	}
	slices.Sort(removed)
	return removed, nil
}

// tokenFiles are what SoftHSM keeps in a token's folder beside objects.
var tokenFiles = []string{"token.object", "token.lock", "generation"}

// halfMade finds the tokens whose making was killed, and when each last changed.
func halfMade(tokens string) (map[string]time.Time, error) {
	folders, err := os.ReadDir(tokens)
	if err != nil {
		return nil, err
	}
	found := map[string]time.Time{}
	for _, f := range folders {
		if !f.IsDir() {
			continue
		}
		folder := filepath.Join(tokens, f.Name())
		since, half, err := lookAt(folder)
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone between two calls
		case err != nil:
			return nil, err
		case half:
			found[folder] = since
		}
	}
	return found, nil
}

// lookAt tells whether a folder holds a token whose making was killed and nothing else, and when it last changed.
func lookAt(folder string) (since time.Time, half bool, err error) {
	info, err := os.Stat(folder)
	if err != nil {
		return time.Time{}, false, err
	}
	since = info.ModTime()
	files, err := os.ReadDir(folder)
	if err != nil {
		return time.Time{}, false, err
	}
	half = true // an empty folder is the first step of a token
	for _, f := range files {
		if !slices.Contains(tokenFiles, f.Name()) || !f.Type().IsRegular() {
			return since, false, nil
		}
		info, err := f.Info()
		if err != nil {
			return time.Time{}, false, err
		}
		if info.ModTime().After(since) {
			since = info.ModTime()
		}
		if f.Name() != "token.object" {
			continue
		}
		content, err := readUpTo(filepath.Join(folder, f.Name()), maxTokenObject)
		if err != nil {
			return time.Time{}, false, err
		}
		half = !finished(content)
	}
	return since, half, nil
}

// removeToken removes a token's folder, the token itself first.
func removeToken(folder string) error {
	for _, f := range tokenFiles {
		if err := os.Remove(filepath.Join(folder, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(folder)
}

// tokenDir reads where the tokens lie from SoftHSM's configuration: name = value, # begins a comment (softhsm2.conf(5)).
func tokenDir(conf string) (string, error) {
	text, err := readUpTo(conf, maxConf)
	if err != nil {
		return "", err
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if name, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(name) == "directories.tokendir" {
			return strings.TrimSpace(value), nil
		}
	}
	return "", errors.New("it has no directories.tokendir")
}

// readUpTo reads a file and refuses one of more than limit bytes.
func readUpTo(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%q has more than %d bytes", path, limit)
	}
	return content, err
}
