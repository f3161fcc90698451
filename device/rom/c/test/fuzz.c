/*
 * A fuzz target for libFuzzer, and for standalone.c where there is none.
 * Input: one byte of choice, then a certificate or a package.
 *
 * The two functions of the integrator are replaced by quick ones here: what
 * is sought are reads out of bounds, undefined behaviour and claims that
 * break their promises, and behind a real signature no fuzzer would get far.
 */

#include "../devicekeys_rom.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int signatures_hold;

/* FNV-1a, spread over 32 bytes: a hash for this program only. It reads every byte it is given. */
dkrom_result dkrom_sha256(const struct dkrom_bytes *pieces, size_t count, uint8_t *digest)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);
	size_t i, j;

	for (i = 0; i < count; i++)
		for (j = 0; j < pieces[i].size; j++)
			h = (h ^ pieces[i].bytes[j]) * UINT64_C(0x100000001b3);
	for (i = 0; i < 32; i++)
		digest[i] = (uint8_t)(h >> 8 * (i % 8));
	return DKROM_OK;
}

dkrom_result dkrom_p256_verify(const uint8_t *point, const uint8_t *digest, const uint8_t *signature)
{
	uint8_t sum = 0;
	size_t i;

	for (i = 0; i < 64; i++)
		sum = (uint8_t)(sum ^ signature[i] ^ point[i + 1] ^ digest[i % 32]);
	return signatures_hold ? DKROM_OK : (dkrom_result)sum;
}

static void require(int holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz: %s\n", what);
		abort();
	}
}

static void promises(const struct dkrom_device *device, const struct dkrom_claims *c)
{
	uint8_t context[DKROM_CHIP_CONTEXT_SIZE], aad[DKROM_BACKUP_AAD_SIZE];
	size_t i;

	require(c->verified == DKROM_OK, "claims are not marked");
	require(c->generation != 0 && c->issued_at >= 0x10000, "a generation or time that is none");
	require(c->realm == device->realm && c->identity_type == device->identity_type, "another realm or type");
	require(c->chip_id_size == device->chip_id_size && memcmp(c->chip_id, device->chip_id, c->chip_id_size) == 0, "another chip");
	require(c->identity_size > 0 && c->identity_size <= DKROM_MAX_IDENTITY, "identity's size");
	for (i = 0; i < sizeof c->identity; i++)
		require((c->identity[i] != 0) == (i < c->identity_size), "identity's end");
	require(strspn(c->identity, "0123456789abcdefABCDEFGHIJKLMNOPQRSTUVWXYZ.-") == c->identity_size, "a character of the identity");
	require(dkrom_chip_context(c, DKROM_WRAP, context, sizeof context) == DKROM_OK, "wrap context");
	require(dkrom_chip_context(c, DKROM_SEAL, context, sizeof context) == DKROM_OK, "seal context");
	require(dkrom_backup_aad(c, aad, sizeof aad) == DKROM_OK, "associated data");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t sizes[4] = { 16, 24, 32, 16 };
	uint8_t chip_id[32], point[DKROM_POINT_SIZE] = { 4 }, hash[32], *exact;
	struct dkrom_device device;
	struct dkrom_claims claims;
	dkrom_result first, second;
	size_t i;

	if (size < 1)
		return 0;
	if (dkrom_key_hash(point, hash) != DKROM_OK)
		abort();
	/* The seeds are certificates of chip IDs 00 11 22 … (docs/formats.md) by another key: the id is put in. */
	for (i = 0; i < sizeof chip_id; i++)
		chip_id[i] = (uint8_t)(i % 16 * 0x11);
	device.chip_id = chip_id;
	device.chip_id_size = sizes[data[0] >> 2 & 3];
	device.rom_key = point;
	device.rom_key_hash = hash;
	device.identity_type = (uint8_t)(DKROM_IMEI + (data[0] & 3));
	device.realm = (data[0] & 0x10) != 0 ? DKROM_PRODUCTION : DKROM_DEVELOPMENT;
	signatures_hold = (data[0] & 0x20) == 0;
	if ((exact = malloc(size > 1 ? size - 1 : 1)) == NULL)
		abort();
	memcpy(exact, data + 1, size - 1);
	if ((data[0] & 0x40) == 0 && size > 17)
		memcpy(exact + 9, hash, 8);

	memset(&claims, 0xaa, sizeof claims);
	first = dkrom_certificate(&device, exact, size - 1, &claims);
	if (first == DKROM_OK) {
		require(signatures_hold, "no signature held");
		promises(&device, &claims);
		(void)dkrom_manifest(&claims, exact, size - 1);
	} else {
		require(claims.verified == 0 && claims.identity[0] == 0, "claims of a refused certificate");
	}
	second = dkrom_certificate(&device, exact, size - 1, &claims);
	require(first == second && first != DKROM_FAULT, "two runs, two results");
	second = dkrom_package(exact, size - 1);
	require(second == DKROM_BACKUP || second == DKROM_DATA || second == DKROM_FORM, "a package's code");
	free(exact);
	return 0;
}
