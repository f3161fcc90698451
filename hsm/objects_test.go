package hsm_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
)

// TestObjectsAtOnce makes and destroys token keys of one token while others make, search and use keys of it. Without
// a lock SoftHSM fails in every round.
func TestObjectsAtOnce(t *testing.T) {
	t.Parallel()
	const rounds, keys = 6, 3
	for round := range rounds {
		tok := open(t, fresh(t), hsm.Options{Sessions: 8})
		used := generate(t, tok, hsm.Spec{Kind: hsm.CheckpointKey, Label: "used", Token: true})
		master := generate(t, tok, hsm.Spec{Kind: hsm.MasterKey, Label: "master", Token: true})
		done := make(chan struct{})
		var makers, others sync.WaitGroup
		for i := range 2 {
			makers.Go(func() {
				for j := range keys {
					label := fmt.Sprintf("key-%d-%d", i, j)
					pair, err := tok.Generate(t.Context(), hsm.Spec{Kind: hsm.TLSKey, Label: label, Token: true})
					if err == nil {
						err = pair.Destroy(t.Context())
					}
					if err != nil {
						t.Errorf("round %d: %v", round, err)
					}
					kept, err := tok.Derive(t.Context(), master, hsm.KDF1, []byte(label), hsm.Spec{Kind: hsm.PurposeKey, Label: label + "-derived", Token: true})
					if err == nil {
						err = kept.Destroy(t.Context())
					}
					if err != nil {
						t.Errorf("round %d: %v", round, err)
					}
				}
			})
		}
		for _, act := range []func() error{
			func() error {
				_, err := tok.Find(t.Context(), hsm.Spec{Kind: hsm.CheckpointKey, Label: "used"})
				return err
			},
			func() error {
				_, err := tok.Find(t.Context(), hsm.Spec{Kind: hsm.TLSKey, Label: "nobody's"})
				if errors.Is(err, hsm.ErrNoKey) {
					return nil
				}
				return err
			},
			func() error {
				_, err := used.SignMessage(t.Context(), []byte("message"))
				return err
			},
		} {
			others.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if err := act(); err != nil {
						t.Errorf("round %d: %v", round, err)
						return
					}
				}
			})
		}
		makers.Wait()
		close(done)
		others.Wait()
	}
}
