/* What a verified certificate says. Section numbers are those of docs/formats.md. */

#include "internal.h"

static uint32_t big_endian(const uint8_t *b)
{
	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | (uint32_t)b[3];
}

void dkromi_wipe(struct dkrom_claims *claims)
{
	volatile uint8_t *p = (volatile uint8_t *)claims;
	size_t n = sizeof *claims;

	while (n-- > 0)
		*p++ = 0;
}

dkrom_result dkromi_read_claims(const struct dkrom_device *device, const uint8_t *certificate, const struct dkromi_layout *l, struct dkrom_claims *out)
{
	const struct dkrom_bytes payload = { certificate + PAYLOAD, l->signature - SIGNATURE_HEAD - PAYLOAD };
	dkrom_result r = dkromi_identity(device->identity_type, certificate + l->subject, l->subject_size, out);

	if (r != DKROM_OK)
		return r;
	out->identity_type = device->identity_type;
	out->realm = certificate[l->realm];
	out->issued_at = big_endian(certificate + l->time);
	out->generation = big_endian(certificate + l->generation);
	/* A time below 65536 has a shorter encoding (§2); generations count from 1. */
	if (out->issued_at < 0x10000 || out->generation == 0)
		return DKROM_CLAIMS;
	out->chip_id_size = device->chip_id_size;
	dkromi_copy(out->chip_id, certificate + l->chip_id, device->chip_id_size);
	dkromi_copy(out->manifest, certificate + l->manifest, 32);
	return dkrom_sha256(&payload, 1, out->claims_hash) == DKROM_OK ? DKROM_OK : DKROM_CRYPTO;
}
