package secret

// Seams for the tests: the owner check without being two users, the parser without
// a file.
var (
	Check = check
	Parse = parse
)
