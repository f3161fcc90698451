/* Manifest, codes, and what a backup is bound to. Section numbers are those of docs/formats.md. */

#include "internal.h"

static const uint8_t backup_code[8] = { 0xd9, 0xd9, 0xf7, 0xda, 'P', 'D', 'K', 'B' };
static const uint8_t data_code[8] = { 0xd9, 0xd9, 0xf7, 0xda, 'P', 'D', 'K', 'D' };

dkrom_result dkrom_manifest(const struct dkrom_claims *claims, const uint8_t *manifest, size_t size)
{
	const struct dkrom_bytes all = { manifest, size };
	uint8_t hash[32] = { 0 };

	if (claims == NULL || claims->verified != DKROM_OK || manifest == NULL || size == 0 || size > DKROM_MAX_MANIFEST)
		return DKROM_ARGUMENT;
	if (dkrom_sha256(&all, 1, hash) != DKROM_OK)
		return DKROM_CRYPTO;
	return dkromi_same(hash, claims->manifest, sizeof hash, DKROM_MANIFEST);
}

dkrom_result dkrom_package(const uint8_t *package, size_t size)
{
	if (package == NULL)
		return DKROM_ARGUMENT;
	if (size < sizeof backup_code || size > DKROM_MAX_PACKAGE)
		return DKROM_FORM;
	if (dkromi_same(package, backup_code, sizeof backup_code, DKROM_FORM) == DKROM_OK)
		return DKROM_BACKUP;
	if (dkromi_same(package, data_code, sizeof data_code, DKROM_FORM) == DKROM_OK)
		return DKROM_DATA;
	return DKROM_FORM;
}

dkrom_result dkrom_chip_context(const struct dkrom_claims *claims, dkrom_use use, uint8_t *out, size_t size)
{
	static const uint8_t head[9] = { 0x85, 0x67, 'd', 'k', '-', 'c', 'h', 'i', 'p' };
	static const uint8_t wrap[5] = { 0x64, 'w', 'r', 'a', 'p' }, seal[5] = { 0x64, 's', 'e', 'a', 'l' };

	if (claims == NULL || claims->verified != DKROM_OK || out == NULL || size != DKROM_CHIP_CONTEXT_SIZE)
		return DKROM_ARGUMENT;
	if (use != DKROM_WRAP && use != DKROM_SEAL)
		return DKROM_ARGUMENT;
	dkromi_copy(out, head, sizeof head);
	out[9] = 0x01;
	out[10] = claims->realm;
	dkromi_copy(out + 11, use == DKROM_WRAP ? wrap : seal, 5);
	out[16] = 0x58;
	out[17] = 0x20;
	dkromi_copy(out + 18, claims->claims_hash, 32);
	return DKROM_OK;
}

dkrom_result dkrom_backup_aad(const struct dkrom_claims *claims, uint8_t *out, size_t size)
{
	/* ["Encrypt0", h'a10103', a], where a has 55 bytes: ["dk-backup", 1, backup code, claims hash] (§10). */
	static const uint8_t head[28] = {
		0x83, 0x68, 'E', 'n', 'c', 'r', 'y', 'p', 't', '0', 0x43, 0xa1, 0x01, 0x03, 0x58, 0x37,
		0x84, 0x69, 'd', 'k', '-', 'b', 'a', 'c', 'k', 'u', 'p', 0x01
	};

	if (claims == NULL || claims->verified != DKROM_OK || out == NULL || size != DKROM_BACKUP_AAD_SIZE)
		return DKROM_ARGUMENT;
	dkromi_copy(out, head, sizeof head);
	out[28] = 0x48;
	dkromi_copy(out + 29, backup_code, sizeof backup_code);
	out[37] = 0x58;
	out[38] = 0x20;
	dkromi_copy(out + 39, claims->claims_hash, 32);
	return DKROM_OK;
}
