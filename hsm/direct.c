#include "direct.h"

#include <dlfcn.h>

// dk_open gives the functions of a module that is loaded already, or NULL. The handle is kept: the module stays
// mapped for the life of the process anyway.
const ck_functions *dk_open(const char *module)
{
	ck_rv (*get_function_list)(const ck_functions **);
	const ck_functions *list = NULL;
	void *handle = dlopen(module, RTLD_LAZY);
	if (handle == NULL)
		return NULL;
	*(void **)&get_function_list = dlsym(handle, "C_GetFunctionList");
	if (get_function_list == NULL || get_function_list(&list) != 0)
		return NULL;
	return list;
}

dk_answer dk_sign(const ck_functions *f, ck_ulong session, ck_ulong mechanism, ck_ulong key,
	ck_byte *msg, ck_ulong msg_len, ck_byte *out, ck_ulong out_len)
{
	ck_mechanism m = { mechanism, NULL, 0 };
	dk_answer a = { f->sign_init(session, &m, key), out_len, 0 };
	if (a.rv != 0)
		return a;
	a.begun = 1;
	a.rv = f->sign(session, msg, msg_len, out, &a.len);
	return a;
}

dk_answer dk_gcm(const ck_functions *f, int seal, ck_ulong session, ck_ulong key, ck_byte *iv, ck_ulong iv_len,
	ck_byte *aad, ck_ulong aad_len, ck_byte *in, ck_ulong in_len, ck_byte *out, ck_ulong out_len)
{
	ck_gcm_params p = { iv, iv_len, iv_len * 8, aad, aad_len, 128 };
	ck_mechanism m = { 0x1087 /* CKM_AES_GCM */, &p, sizeof p };
	dk_answer a = { (seal ? f->encrypt_init : f->decrypt_init)(session, &m, key), out_len, 0 };
	if (a.rv != 0)
		return a;
	a.begun = 1;
	a.rv = (seal ? f->encrypt : f->decrypt)(session, in, in_len, out, &a.len);
	return a;
}

dk_answer dk_wrap(const ck_functions *f, ck_ulong session, ck_ulong mechanism, ck_ulong kek, ck_ulong key,
	ck_byte *out, ck_ulong out_len)
{
	ck_mechanism m = { mechanism, NULL, 0 };
	dk_answer a = { 0, out_len, 1 };
	a.rv = f->wrap_key(session, &m, kek, key, out, &a.len);
	return a;
}

dk_answer dk_attribute(const ck_functions *f, ck_ulong session, ck_ulong object, ck_ulong type, ck_byte *out, ck_ulong out_len)
{
	ck_attribute t = { type, out, out_len };
	dk_answer a = { 0, 0, 1 };
	a.rv = f->get_attribute_value(session, object, &t, 1);
	a.len = t.value_len;
	return a;
}

// dk_inner_values reads the values of an attribute array whose types are known and stand in out: SoftHSM asks for
// them. len is how many there are.
dk_answer dk_inner_values(const ck_functions *f, ck_ulong session, ck_ulong object, ck_ulong type, dk_inner *out, ck_ulong count)
{
	ck_attribute list[DK_INNER_MAX];
	if (count > DK_INNER_MAX)
		count = DK_INNER_MAX;
	for (ck_ulong i = 0; i < count; i++)
		list[i] = (ck_attribute){ out[i].type, out[i].value, sizeof out[i].value };
	ck_attribute t = { type, list, count * sizeof list[0] };
	dk_answer a = { 0, 0, 1 };
	a.rv = f->get_attribute_value(session, object, &t, 1);
	a.len = t.value_len / sizeof list[0];
	for (ck_ulong i = 0; i < count; i++) {
		out[i].type = list[i].type;
		out[i].len = list[i].value_len;
	}
	return a;
}
