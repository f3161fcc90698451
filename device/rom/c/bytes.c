/* Bytes: compared and copied. Section numbers are those of docs/formats.md. */

#include "internal.h"

dkrom_result dkromi_same(const uint8_t *a, const uint8_t *b, size_t n, dkrom_result otherwise)
{
	volatile uint8_t difference = 0;
	volatile size_t done = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		difference = (uint8_t)(difference | (a[i] ^ b[i]));
		done = done + 1;
	}
	if (difference != 0)
		return otherwise;
	if (difference != 0 || done != n)
		return DKROM_FAULT;
	return DKROM_OK;
}

void dkromi_copy(uint8_t *to, const uint8_t *from, size_t n)
{
	while (n-- > 0)
		*to++ = *from++;
}
