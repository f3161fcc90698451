/* Where things stand in a certificate, and its constant bytes. Section numbers are those of docs/formats.md. */

#include "internal.h"

struct constant {
	size_t at;
	const uint8_t *bytes;
	size_t size;
};

static const uint8_t envelope[9] = { 0xd2, 0x84, 0x58, 0x37, 0xa3, 0x01, 0x26, 0x04, 0x48 };
static const uint8_t type[TYPE_SIZE + 1] = "\x10\x78\x27" "application/vnd.devicekeys.identity+cwt";
static const uint8_t time_head[2] = { 0x06, 0x1a };
static const uint8_t realm_head[5] = { 0x3a, 0x00, 0x01, 0x00, 0x00 };
static const uint8_t generation_head[6] = { 0x3a, 0x00, 0x01, 0x00, 0x01, 0x44 };
static const uint8_t manifest_head[7] = { 0x3a, 0x00, 0x01, 0x00, 0x02, 0x58, 0x20 };
static const uint8_t signature_head[SIGNATURE_HEAD] = { 0x58, 0x40 };

dkrom_result dkromi_subject_fits(uint8_t identity_type, size_t size)
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

dkrom_result dkromi_find_layout(const struct dkrom_device *device, size_t size, struct dkromi_layout *l)
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
	fits = dkromi_subject_fits(device->identity_type, n);
	if (fits != DKROM_OK)
		return fits;
	l->subject = SUBJECT_HEAD + head;
	l->subject_size = n;
	l->time = l->subject + n + sizeof time_head;
	l->chip_id = l->time + 4 + 3 + chip_head + 1;
	l->realm = l->chip_id + device->chip_id_size + sizeof realm_head;
	l->generation = l->realm + 1 + sizeof generation_head;
	l->manifest = l->generation + 4 + sizeof manifest_head;
	l->signature = l->manifest + 32 + SIGNATURE_HEAD;
	/* What follows reads no byte at or beyond this sum. */
	return l->signature + DKROM_SIGNATURE_SIZE == size ? DKROM_OK : DKROM_FAULT;
}

dkrom_result dkromi_constant_bytes(const uint8_t *certificate, const struct dkromi_layout *l, const uint8_t *key_hash, size_t chip_id_size)
{
	const size_t subject_head = l->subject - SUBJECT_HEAD, ueid_head = l->time + 4;
	const size_t payload_size = l->signature - SIGNATURE_HEAD - PAYLOAD;
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
		{ l->signature - SIGNATURE_HEAD, signature_head, SIGNATURE_HEAD }
	};
	const size_t count = sizeof constants / sizeof constants[0];
	volatile size_t done = 0;
	size_t i;

	for (i = 0; i < count; i++) {
		dkrom_result r = dkromi_same(certificate + constants[i].at, constants[i].bytes, constants[i].size, DKROM_FORM);

		if (r != DKROM_OK)
			return r;
		done = done + 1;
	}
	if (done != count)
		return DKROM_FAULT;
	return dkromi_same(certificate + KEY_ID, key_hash, KEY_ID_SIZE, DKROM_KEY);
}
