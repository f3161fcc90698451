/*
 * Runs fuzz.c without libFuzzer: standalone rounds seed-file... gives the
 * target every seed, each prefix of it, and then rounds inputs mutated from
 * them. The same arguments make the same inputs.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_INPUT = 2048 };

static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

/* Marsaglia's xorshift64: the numbers need not be good, only the same again. */
static size_t below(size_t n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return n == 0 ? 0 : (size_t)(state >> 16) % n;
}

static size_t mutate(uint8_t *b, size_t n)
{
	static const uint8_t telling[8] = { 0x00, 0xff, 0x7f, 0x80, '0', '-', 'f', 'Z' };
	size_t at = below(n), k = below(8) + 1;

	switch (below(7)) {
	case 0:
		b[at] = (uint8_t)(b[at] ^ 1U << below(8));
		return n;
	case 1:
		b[at] = (uint8_t)below(256);
		return n;
	case 2:
		b[at] = telling[below(8)];
		return n;
	case 3: /* cut */
		return at + 1;
	case 4: /* longer at the end */
		for (; k > 0 && n < MAX_INPUT; k--)
			b[n++] = (uint8_t)below(256);
		return n;
	case 5: /* bytes lost */
		k = k > n - at ? n - at : k;
		memmove(b + at, b + at + k, n - at - k);
		return n - k > 0 ? n - k : 1;
	default: /* bytes more */
		k = k > MAX_INPUT - n ? MAX_INPUT - n : k;
		memmove(b + at + k, b + at, n - at);
		return n + k;
	}
}

int main(int argc, char **argv)
{
	static uint8_t seeds[64][MAX_INPUT];
	static size_t sizes[64];
	uint8_t input[MAX_INPUT];
	size_t count = 0, i, n, changes;
	unsigned long rounds, round;

	if (argc < 3 || argc > 66)
		return 2;
	rounds = strtoul(argv[1], NULL, 10);
	for (i = 2; i < (size_t)argc; i++) {
		FILE *f = fopen(argv[i], "rb");

		if (f == NULL)
			return 2;
		sizes[count] = fread(seeds[count], 1, MAX_INPUT, f);
		fclose(f);
		if (sizes[count] == 0)
			return 2;
		for (n = 0; n <= sizes[count]; n++)
			LLVMFuzzerTestOneInput(seeds[count], n);
		count++;
	}
	for (round = 0; round < rounds; round++) {
		i = below(count);
		n = sizes[i];
		memcpy(input, seeds[i], n);
		for (changes = below(4) + 1; changes > 0; changes--)
			n = mutate(input, n);
		LLVMFuzzerTestOneInput(input, n);
	}
	return 0;
}
