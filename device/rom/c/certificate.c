/* The chain from the key that is burned in to the claims. Section numbers are those of docs/formats.md. */

#include "internal.h"

static const uint8_t spki[26] = {
	0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
	0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00
};
static const uint8_t signature1[12] = { 0x84, 0x6a, 'S', 'i', 'g', 'n', 'a', 't', 'u', 'r', 'e', '1' };
static const uint8_t no_bytes[1] = { 0x40 };

/* check_signature hashes the Sig_structure (§4, §5) where it lies and has the signature verified. */
static dkrom_result check_signature(const uint8_t *rom_key, const uint8_t *certificate, const struct dkromi_layout *l)
{
	const struct dkrom_bytes pieces[4] = {
		{ signature1, sizeof signature1 },
		{ certificate + PROTECTED, PROTECTED_END - PROTECTED },
		{ no_bytes, sizeof no_bytes },
		{ certificate + PAYLOAD_HEAD, l->signature - SIGNATURE_HEAD - PAYLOAD_HEAD }
	};
	volatile dkrom_result r;
	uint8_t digest[32] = { 0 };

	r = dkrom_sha256(pieces, 4, digest);
	if (r != DKROM_OK)
		return DKROM_CRYPTO;
	r = dkrom_p256_verify(rom_key, digest, certificate + l->signature);
	if (r != DKROM_OK)
		return DKROM_SIGNATURE;
	return r; /* and no constant: were the branch skipped, this would still not be DKROM_OK */
}

/* check_device looks at what the caller says of itself. */
static dkrom_result check_device(const struct dkrom_device *device)
{
	uint8_t any = 0;
	size_t i;

	if (device->chip_id == NULL || device->rom_key == NULL || device->rom_key_hash == NULL)
		return DKROM_ARGUMENT;
	if (device->chip_id_size != 16 && device->chip_id_size != 24 && device->chip_id_size != 32)
		return DKROM_ARGUMENT;
	if (device->realm != DKROM_DEVELOPMENT && device->realm != DKROM_PRODUCTION)
		return DKROM_ARGUMENT;
	if (device->identity_type < DKROM_IMEI || device->identity_type > DKROM_SERIAL)
		return DKROM_ARGUMENT;
	for (i = 0; i < device->chip_id_size; i++)
		any = (uint8_t)(any | device->chip_id[i]);
	return any != 0 ? DKROM_OK : DKROM_ARGUMENT;
}

dkrom_result dkrom_key_hash(const uint8_t *point, uint8_t *hash)
{
	const struct dkrom_bytes pieces[2] = { { spki, sizeof spki }, { point, DKROM_POINT_SIZE } };

	if (point == NULL || hash == NULL)
		return DKROM_ARGUMENT;
	if (point[0] != 0x04)
		return DKROM_KEY;
	return dkrom_sha256(pieces, 2, hash) == DKROM_OK ? DKROM_OK : DKROM_CRYPTO;
}

/* verify goes down the chain: own key, form, own chip, own realm, signature, claims. */
static dkrom_result verify(const struct dkrom_device *device, const uint8_t *certificate, size_t size, struct dkrom_claims *out)
{
	volatile dkrom_result self, key, form, constants, chip, realm, signature, claims;
	struct dkromi_layout l = { 0 };
	uint8_t hash[32] = { 0 };

	self = key = form = constants = chip = realm = signature = claims = DKROM_FAULT;
	if ((self = check_device(device)) != DKROM_OK)
		return self;
	if ((key = dkrom_key_hash(device->rom_key, hash)) != DKROM_OK)
		return key;
	if ((key = dkromi_same(hash, device->rom_key_hash, sizeof hash, DKROM_KEY)) != DKROM_OK)
		return key;
	if ((form = dkromi_find_layout(device, size, &l)) != DKROM_OK)
		return form;
	if ((constants = dkromi_constant_bytes(certificate, &l, hash, device->chip_id_size)) != DKROM_OK)
		return constants;
	if ((chip = dkromi_same(certificate + l.chip_id, device->chip_id, device->chip_id_size, DKROM_CHIP)) != DKROM_OK)
		return chip;
	if ((realm = dkromi_same(certificate + l.realm, &device->realm, 1, DKROM_REALM)) != DKROM_OK)
		return realm;
	if ((signature = check_signature(device->rom_key, certificate, &l)) != DKROM_OK)
		return signature;
	if ((claims = dkromi_read_claims(device, certificate, &l, out)) != DKROM_OK)
		return claims;
	/* All once more: a fault has to hit two branches of one run. */
	if (self != DKROM_OK || key != DKROM_OK || form != DKROM_OK || constants != DKROM_OK ||
	    chip != DKROM_OK || realm != DKROM_OK || signature != DKROM_OK || claims != DKROM_OK)
		return DKROM_FAULT;
	return DKROM_OK;
}

dkrom_result dkrom_certificate(const struct dkrom_device *device, const uint8_t *certificate, size_t size, struct dkrom_claims *claims)
{
	volatile dkrom_result r = DKROM_FAULT;

	if (claims == NULL)
		return DKROM_ARGUMENT;
	dkromi_wipe(claims);
	if (device == NULL || certificate == NULL)
		return DKROM_ARGUMENT;
	r = verify(device, certificate, size, claims);
	if (r != DKROM_OK) {
		dkromi_wipe(claims);
		return r;
	}
	claims->verified = r;
	return r;
}
