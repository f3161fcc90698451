package chip_test

import (
	"os"
	"testing"

	"github.com/devicekeys/devicekeys/softhsm"
)

func TestMain(m *testing.M) { os.Exit(softhsm.Main(m)) }
