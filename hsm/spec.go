package hsm

// Spec names a key: its kind, its label in the token, and whether it lasts there.
type Spec struct {
	Kind Kind
	// Label is CKA_LABEL, 1 to 64 bytes for a token object; optional for a session
	// object, where it serves only messages.
	Label string
	// Token makes a token object, which lasts; else a session object, which dies with
	// the Token it was made in.
	Token bool
	// Unwrapped says of a token key that it came from another HSM. SoftHSM keeps no check
	// value of such a key, by which [Token.Find] tells a whole key from one that a crash
	// left half written; so whoever unwrapped it has tried it, and says so somewhere.
	// [Token.Sweep] can't tell either, and is not for tokens with such keys.
	Unwrapped bool
	// KDF is the key derivation that a MasterKey or PurposeKey serves; zero is [KDF1].
	// Other kinds don't have one.
	KDF KDF
}
