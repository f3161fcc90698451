/* See devicekeys_rom.h. Section numbers are those of docs/formats.md. */

#include "devicekeys_rom.h"

/*
 * Where things stand in a certificate (§5). Up to the subject's head, and
 * from the subject's end on, distances are constant but for the chip ID:
 *
 *   0   d2 84 58 37 a3 01 26 04 48   tag, array, protected header
 *   9   key id, 8
 *  17   10 78 27 "application/…"     content type
 *  59   a0 58 n                      unprotected header, head of the payload
 *  62   a6 02 head subject           sub
 *       06 1a time, 4                iat
 *       19 01 00 head 01 chip ID     ueid
 *       3a 00 01 00 00 realm, 1
 *       3a 00 01 00 01 44 generation, 4
 *       3a 00 01 00 02 58 20 manifest, 32
 *       58 40 signature, 64
 */
enum {
	PROTECTED = 2,      /* the protected header with its head */
	PROTECTED_END = 59,
	KEY_ID = 9,
	KEY_ID_SIZE = 8,
	TYPE_SIZE = 42,
	PAYLOAD_HEAD = 60,
	PAYLOAD = 62,
	SUBJECT_HEAD = 64,
	FRAMING = 195,      /* all but subject, chip ID and the heads of both */
	SHORT = 24          /* first length whose CBOR head has two bytes */
};

struct layout {
	size_t subject, subject_size, time, chip_id, realm, generation, manifest, signature;
};

struct constant {
	size_t at;
	const uint8_t *bytes;
	size_t size;
};

static const uint8_t spki[26] = {
	0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
	0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00
};
static const uint8_t envelope[9] = { 0xd2, 0x84, 0x58, 0x37, 0xa3, 0x01, 0x26, 0x04, 0x48 };
static const uint8_t type[TYPE_SIZE + 1] = "\x10\x78\x27" "application/vnd.devicekeys.identity+cwt";
static const uint8_t time_head[2] = { 0x06, 0x1a };
static const uint8_t realm_head[5] = { 0x3a, 0x00, 0x01, 0x00, 0x00 };
static const uint8_t generation_head[6] = { 0x3a, 0x00, 0x01, 0x00, 0x01, 0x44 };
static const uint8_t manifest_head[7] = { 0x3a, 0x00, 0x01, 0x00, 0x02, 0x58, 0x20 };
static const uint8_t signature_head[2] = { 0x58, 0x40 };
static const uint8_t signature1[12] = { 0x84, 0x6a, 'S', 'i', 'g', 'n', 'a', 't', 'u', 'r', 'e', '1' };
static const uint8_t no_bytes[1] = { 0x40 };
static const uint8_t imei_urn[14] = { 'u', 'r', 'n', ':', 'g', 's', 'm', 'a', ':', 'i', 'm', 'e', 'i', ':' };
static const uint8_t eui_urn[12] = { 'u', 'r', 'n', ':', 'd', 'e', 'v', ':', 'm', 'a', 'c', ':' };
static const uint8_t serial_urn[11] = { 'u', 'r', 'n', ':', 'd', 'e', 'v', ':', 'o', 's', ':' };
static const uint8_t fffe[4] = { 'f', 'f', 'f', 'e' };
static const uint8_t backup_code[8] = { 0xd9, 0xd9, 0xf7, 0xda, 'P', 'D', 'K', 'B' };
static const uint8_t data_code[8] = { 0xd9, 0xd9, 0xf7, 0xda, 'P', 'D', 'K', 'D' };

/*
 * same compares in a time that depends on n only, and gives otherwise where
 * bytes differ. What it found is read from memory twice, and the count of
 * compared bytes with it, so that neither a skipped branch nor a loop that
 * was left early makes it say DKROM_OK.
 */
static dkrom_result same(const uint8_t *a, const uint8_t *b, size_t n, dkrom_result otherwise)
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

static void copy(uint8_t *to, const uint8_t *from, size_t n)
{
	while (n-- > 0)
		*to++ = *from++;
}

static uint32_t big_endian(const uint8_t *b)
{
	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | (uint32_t)b[3];
}

/* wipe leaves a claims set that every function refuses. */
static void wipe(struct dkrom_claims *claims)
{
	volatile uint8_t *p = (volatile uint8_t *)claims;
	size_t n = sizeof *claims;

	while (n-- > 0)
		*p++ = 0;
}

/* subject_fits tells whether an identity of the type has URNs of that size (§3). */
static dkrom_result subject_fits(uint8_t identity_type, size_t size)
{
	switch (identity_type) {
	case DKROM_IMEI:
		return size == 31 ? DKROM_OK : DKROM_FORM;
	case DKROM_EUI48:
	case DKROM_EUI64:
		return size == 28 ? DKROM_OK : DKROM_FORM;
	case DKROM_SERIAL:
		return size >= 14 && size <= 54 ? DKROM_OK : DKROM_FORM;
	default:
		return DKROM_ARGUMENT;
	}
}

/*
 * find_layout computes the offsets from the certificate's size alone: it
 * grows by one with every character of the subject, and by one more where
 * the subject's head does, so a size has one layout or none.
 */
static dkrom_result find_layout(const struct dkrom_device *device, size_t size, struct layout *l)
{
	const size_t chip_head = device->chip_id_size + 1 < SHORT ? 1 : 2;
	const size_t rest = FRAMING + chip_head + device->chip_id_size;
	size_t head = 1, n;
	dkrom_result fits;

	if (size > DKROM_MAX_CERTIFICATE || size <= rest)
		return DKROM_FORM;
	n = size - rest - 1;
	if (n >= SHORT) {
		head = 2;
		n--;
		if (n < SHORT)
			return DKROM_FORM;
	}
	fits = subject_fits(device->identity_type, n);
	if (fits != DKROM_OK)
		return fits;
	l->subject = SUBJECT_HEAD + head;
	l->subject_size = n;
	l->time = l->subject + n + sizeof time_head;
	l->chip_id = l->time + 4 + 3 + chip_head + 1;
	l->realm = l->chip_id + device->chip_id_size + sizeof realm_head;
	l->generation = l->realm + 1 + sizeof generation_head;
	l->manifest = l->generation + 4 + sizeof manifest_head;
	l->signature = l->manifest + 32 + sizeof signature_head;
	/* What follows reads no byte at or beyond this sum. */
	return l->signature + DKROM_SIGNATURE_SIZE == size ? DKROM_OK : DKROM_FAULT;
}

/* constant_bytes compares every byte that no certificate of the layout may have otherwise. */
static dkrom_result constant_bytes(const uint8_t *certificate, const struct layout *l, const uint8_t *key_hash, size_t chip_id_size)
{
	const size_t subject_head = l->subject - SUBJECT_HEAD, ueid_head = l->time + 4;
	const size_t payload_size = l->signature - sizeof signature_head - PAYLOAD;
	const size_t ueid_size = chip_id_size + 1;
	const uint8_t payload[7] = {
		0xa0, 0x58, (uint8_t)payload_size, 0xa6, 0x02,
		(uint8_t)(subject_head == 1 ? 0x60 + l->subject_size : 0x78), (uint8_t)l->subject_size
	};
	const uint8_t ueid_short[5] = { 0x19, 0x01, 0x00, (uint8_t)(0x40 + ueid_size), 0x01 };
	const uint8_t ueid_long[6] = { 0x19, 0x01, 0x00, 0x58, (uint8_t)ueid_size, 0x01 };
	const struct constant constants[] = {
		{ 0, envelope, sizeof envelope },
		{ KEY_ID + KEY_ID_SIZE, type, TYPE_SIZE },
		{ PROTECTED_END, payload, 5 + subject_head },
		{ l->time - sizeof time_head, time_head, sizeof time_head },
		{ ueid_head, ueid_size < SHORT ? ueid_short : ueid_long, l->chip_id - ueid_head },
		{ l->realm - sizeof realm_head, realm_head, sizeof realm_head },
		{ l->generation - sizeof generation_head, generation_head, sizeof generation_head },
		{ l->manifest - sizeof manifest_head, manifest_head, sizeof manifest_head },
		{ l->signature - sizeof signature_head, signature_head, sizeof signature_head }
	};
	const size_t count = sizeof constants / sizeof constants[0];
	volatile size_t done = 0;
	size_t i;

	for (i = 0; i < count; i++) {
		dkrom_result r = same(certificate + constants[i].at, constants[i].bytes, constants[i].size, DKROM_FORM);

		if (r != DKROM_OK)
			return r;
		done = done + 1;
	}
	if (done != count)
		return DKROM_FAULT;
	return same(certificate + KEY_ID, key_hash, KEY_ID_SIZE, DKROM_KEY);
}

/* check_signature hashes the Sig_structure (§4, §5) where it lies and has the signature verified. */
static dkrom_result check_signature(const uint8_t *rom_key, const uint8_t *certificate, const struct layout *l)
{
	const struct dkrom_bytes pieces[4] = {
		{ signature1, sizeof signature1 },
		{ certificate + PROTECTED, PROTECTED_END - PROTECTED },
		{ no_bytes, sizeof no_bytes },
		{ certificate + PAYLOAD_HEAD, l->signature - sizeof signature_head - PAYLOAD_HEAD }
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

static int is_digit(uint8_t c)
{
	return c >= '0' && c <= '9';
}

/* imei: urn:gsma:imei: TAC of 8, '-', serial number of 6, "-0". */
static dkrom_result imei(const uint8_t *urn, struct dkrom_claims *out)
{
	size_t i, n = 0;

	for (i = 14; i < 29; i++) {
		if (i == 22 ? urn[i] != '-' : !is_digit(urn[i]))
			return DKROM_CLAIMS;
		if (i != 22)
			out->identity[n++] = (char)urn[i];
	}
	out->identity_size = n;
	if (urn[29] != '-' || urn[30] != '0')
		return DKROM_CLAIMS;
	return same(urn, imei_urn, sizeof imei_urn, DKROM_CLAIMS);
}

/* eui: urn:dev:mac: 16 lower-case digits, individual, not zero; fffe in the middle is what tells an EUI-48. */
static dkrom_result eui(const uint8_t *urn, int is48, struct dkrom_claims *out)
{
	size_t i, n = 0;
	int zero = 1;

	for (i = 12; i < 28; i++) {
		if (!is_digit(urn[i]) && (urn[i] < 'a' || urn[i] > 'f'))
			return DKROM_CLAIMS;
		if (is48 && i >= 18 && i < 22)
			continue;
		if (urn[i] != '0')
			zero = 0;
		out->identity[n++] = (char)urn[i];
	}
	out->identity_size = n;
	/* The group bit is the lowest of the second digit; '0' is even, 'a' is ten and odd as a character. */
	if (zero || ((is_digit(urn[13]) ? urn[13] : urn[13] + 1) & 1) != 0)
		return DKROM_CLAIMS;
	if ((same(urn + 18, fffe, sizeof fffe, DKROM_CLAIMS) == DKROM_OK) != (is48 != 0))
		return DKROM_CLAIMS;
	return same(urn, eui_urn, sizeof eui_urn, DKROM_CLAIMS);
}

/* serial: urn:dev:os: enterprise number of 1 to 10 digits, '-', 1 to 32 of 'A'-'Z', '0'-'9', '.'. */
static dkrom_result serial(const uint8_t *urn, size_t size, struct dkrom_claims *out)
{
	const size_t start = sizeof serial_urn;
	size_t i, hyphen = start;

	while (hyphen < size && is_digit(urn[hyphen]))
		hyphen++;
	if (hyphen == start || hyphen - start > 10 || urn[start] == '0')
		return DKROM_CLAIMS;
	if (hyphen >= size || urn[hyphen] != '-' || size - hyphen - 1 < 1 || size - hyphen - 1 > 32)
		return DKROM_CLAIMS;
	for (i = hyphen + 1; i < size; i++) {
		if (!is_digit(urn[i]) && (urn[i] < 'A' || urn[i] > 'Z') && urn[i] != '.')
			return DKROM_CLAIMS;
	}
	out->identity_size = size - start;
	copy((uint8_t *)out->identity, urn + start, size - start);
	return same(urn, serial_urn, sizeof serial_urn, DKROM_CLAIMS);
}

/* read_claims turns what the signature vouches for into fields. */
static dkrom_result read_claims(const struct dkrom_device *device, const uint8_t *certificate, const struct layout *l, struct dkrom_claims *out)
{
	const struct dkrom_bytes payload = { certificate + PAYLOAD, l->signature - sizeof signature_head - PAYLOAD };
	const uint8_t *urn = certificate + l->subject;
	dkrom_result r = subject_fits(device->identity_type, l->subject_size);

	if (r != DKROM_OK)
		return r;
	if (device->identity_type == DKROM_IMEI)
		r = imei(urn, out);
	else if (device->identity_type == DKROM_SERIAL)
		r = serial(urn, l->subject_size, out);
	else
		r = eui(urn, device->identity_type == DKROM_EUI48, out);
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
	copy(out->chip_id, certificate + l->chip_id, device->chip_id_size);
	copy(out->manifest, certificate + l->manifest, 32);
	return dkrom_sha256(&payload, 1, out->claims_hash) == DKROM_OK ? DKROM_OK : DKROM_CRYPTO;
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
	struct layout l = { 0 };
	uint8_t hash[32] = { 0 };

	self = key = form = constants = chip = realm = signature = claims = DKROM_FAULT;
	if ((self = check_device(device)) != DKROM_OK)
		return self;
	if ((key = dkrom_key_hash(device->rom_key, hash)) != DKROM_OK)
		return key;
	if ((key = same(hash, device->rom_key_hash, sizeof hash, DKROM_KEY)) != DKROM_OK)
		return key;
	if ((form = find_layout(device, size, &l)) != DKROM_OK)
		return form;
	if ((constants = constant_bytes(certificate, &l, hash, device->chip_id_size)) != DKROM_OK)
		return constants;
	if ((chip = same(certificate + l.chip_id, device->chip_id, device->chip_id_size, DKROM_CHIP)) != DKROM_OK)
		return chip;
	if ((realm = same(certificate + l.realm, &device->realm, 1, DKROM_REALM)) != DKROM_OK)
		return realm;
	if ((signature = check_signature(device->rom_key, certificate, &l)) != DKROM_OK)
		return signature;
	if ((claims = read_claims(device, certificate, &l, out)) != DKROM_OK)
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
	wipe(claims);
	if (device == NULL || certificate == NULL)
		return DKROM_ARGUMENT;
	r = verify(device, certificate, size, claims);
	if (r != DKROM_OK) {
		wipe(claims);
		return r;
	}
	claims->verified = r;
	return r;
}

dkrom_result dkrom_manifest(const struct dkrom_claims *claims, const uint8_t *manifest, size_t size)
{
	const struct dkrom_bytes all = { manifest, size };
	uint8_t hash[32] = { 0 };

	if (claims == NULL || claims->verified != DKROM_OK || manifest == NULL || size == 0 || size > DKROM_MAX_MANIFEST)
		return DKROM_ARGUMENT;
	if (dkrom_sha256(&all, 1, hash) != DKROM_OK)
		return DKROM_CRYPTO;
	return same(hash, claims->manifest, sizeof hash, DKROM_MANIFEST);
}

dkrom_result dkrom_package(const uint8_t *package, size_t size)
{
	if (package == NULL)
		return DKROM_ARGUMENT;
	if (size < sizeof backup_code || size > DKROM_MAX_PACKAGE)
		return DKROM_FORM;
	if (same(package, backup_code, sizeof backup_code, DKROM_FORM) == DKROM_OK)
		return DKROM_BACKUP;
	if (same(package, data_code, sizeof data_code, DKROM_FORM) == DKROM_OK)
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
	copy(out, head, sizeof head);
	out[9] = 0x01;
	out[10] = claims->realm;
	copy(out + 11, use == DKROM_WRAP ? wrap : seal, 5);
	out[16] = 0x58;
	out[17] = 0x20;
	copy(out + 18, claims->claims_hash, 32);
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
	copy(out, head, sizeof head);
	out[28] = 0x48;
	copy(out + 29, backup_code, sizeof backup_code);
	out[37] = 0x58;
	out[38] = 0x20;
	copy(out + 39, claims->claims_hash, 32);
	return DKROM_OK;
}
