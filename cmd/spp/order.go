package main

import (
	"unicode"
	"unicode/utf8"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// Limits of what an operator says, in bytes. With the act's own words around it, each fits an entry of the audit log.
const (
	maxReason   = 512
	maxOperator = 64
)

// orderFlags are the two things that every act of an operator needs. Both go into the audit log, for years.
type orderFlags struct {
	Reason   string `name:"reason" required:"" placeholder:"TEXT" help:"Why, for the audit log: up to 512 characters."`
	Operator string `name:"operator" required:"" placeholder:"NAME" help:"Who allows it, for the audit log: up to 64 characters."`
}

// order checks them. It comes before anything is opened.
func (f orderFlags) order() (records.Order, error) {
	if len(f.Reason) > maxReason || len(f.Operator) > maxOperator || f.Reason == "" || f.Operator == "" {
		return records.Order{}, console.Usagef("reason of %d and operator of %d bytes: 1 to %d and 1 to %d are allowed", len(f.Reason), len(f.Operator), maxReason, maxOperator)
	}
	for _, text := range []string{f.Reason, f.Operator} {
		if !utf8.ValidString(text) {
			return records.Order{}, console.Usagef("%q is not text in UTF-8", text)
		}
		for _, r := range text {
			if !unicode.IsPrint(r) {
				return records.Order{}, console.Usagef("%q has a character that can't be printed: write it in one line", text)
			}
		}
	}
	return records.Order{Operator: f.Operator, Reason: f.Reason}, nil
}
