// Package rom is the place of the portable verifier for boot ROMs and
// firmware. The verifier is C99, in the folder c, which holds no Go so that the
// go tool leaves it alone; here are the tests that hold it against the Go
// implementation. There is nothing to import.
//
// c/devicekeys_rom.h tells an integrator how to use it and what it costs. It
// is the files of that folder, of which c/devicekeys_rom.h is the face, and two
// functions that the integrator brings, SHA-256 and the verification of ECDSA
// with P-256. It allocates nothing and parses nothing: a certificate's offsets
// follow from its size and the length of the chip ID (docs/formats.md §5), and
// all other bytes are compared. Results are far from each other in bits and
// are looked at twice, since a boot ROM is what people glitch.
//
// What it does not do, and firmware must: compare the generation with the
// floor, obey the lock, open the backup with the chip's keys, and check every
// entry against what vouches for it.
//
// The tests run the C code as a program of its own, c/test/driver.c, with
// OpenSSL's libcrypto for the two functions, under the address and
// undefined-behaviour sanitizers. They need a C compiler and libcrypto's
// headers (Debian: gcc, libssl-dev); they use clang and libFuzzer too where
// those are installed. The measure is the Go verifier: both take the same
// certificates and refuse the same.
package rom
