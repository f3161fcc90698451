/* The kinds of identity: from a URN to the canonical text. Section numbers are those of docs/formats.md. */

#include "internal.h"

static const uint8_t imei_urn[14] = { 'u', 'r', 'n', ':', 'g', 's', 'm', 'a', ':', 'i', 'm', 'e', 'i', ':' };
static const uint8_t eui_urn[12] = { 'u', 'r', 'n', ':', 'd', 'e', 'v', ':', 'm', 'a', 'c', ':' };
static const uint8_t serial_urn[11] = { 'u', 'r', 'n', ':', 'd', 'e', 'v', ':', 'o', 's', ':' };
static const uint8_t fffe[4] = { 'f', 'f', 'f', 'e' };

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
	return dkromi_same(urn, imei_urn, sizeof imei_urn, DKROM_CLAIMS);
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
	if ((dkromi_same(urn + 18, fffe, sizeof fffe, DKROM_CLAIMS) == DKROM_OK) != (is48 != 0))
		return DKROM_CLAIMS;
	return dkromi_same(urn, eui_urn, sizeof eui_urn, DKROM_CLAIMS);
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
	dkromi_copy((uint8_t *)out->identity, urn + start, size - start);
	return dkromi_same(urn, serial_urn, sizeof serial_urn, DKROM_CLAIMS);
}

dkrom_result dkromi_identity(uint8_t identity_type, const uint8_t *urn, size_t size, struct dkrom_claims *out)
{
	dkrom_result r = dkromi_subject_fits(identity_type, size);

	if (r != DKROM_OK)
		return r;
	if (identity_type == DKROM_IMEI)
		return imei(urn, out);
	if (identity_type == DKROM_SERIAL)
		return serial(urn, size, out);
	return eui(urn, identity_type == DKROM_EUI48, out);
}
