-- The device service is told which certificates are a device's: SHA-256 of each,
-- one behind the other. The registry's word, which nobody signs, is then not all
-- there is for a certificate that was made in advance and names no record. They are
-- computed from device.x509, so every row has them, whichever version wrote it, and
-- none can differ from its certificates.

-- +goose Up
-- What is no det-CBOR array of byte strings has no hashes, and its certificates
-- are refused: the checker of invariants says which row that is.
-- +goose StatementBegin
create function certificate_hashes(x509 bytea) returns bytea
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
declare
    none   constant bytea := '\x';
    length constant int := octet_length(x509);
    hashes bytea := none;
    place  int := 1; -- behind the array's head
    size   int;
    count  int;
begin
    if length = 0 then
        return none;
    end if;
    count := get_byte(x509, 0) - 128; -- RFC 8949 section 3: an array of 0 to 23 items
    if count not between 0 and 23 then
        return none;
    end if;
    for i in 1..count loop
        if place >= length then
            return none;
        end if;
        size := get_byte(x509, place) - 64; -- a byte string of 0 to 23 bytes, or its length in the next one or two
        place := place + 1;
        if size not between 0 and 25 or size > 23 and place + size - 23 > length then
            return none;
        end if;
        if size = 24 then
            size := get_byte(x509, place);
            place := place + 1;
        elsif size = 25 then
            size := get_byte(x509, place) * 256 + get_byte(x509, place + 1);
            place := place + 2;
        end if;
        if place + size > length then
            return none;
        end if;
        hashes := hashes || sha256(substr(x509, place + 1, size));
        place := place + size;
    end loop;
    if place <> length then
        return none;
    end if;
    return hashes;
end $$;
-- +goose StatementEnd

create or replace view issued with (security_barrier = true) as
select identity_type, identity_value, record_id, generation, realm, line, kdf, master_version, state,
    state in ('published', 'shipped') as active, published, certificate_hashes(x509) as certificates
from device
where state not in ('reserved', 'packaged', 'confirmed', 'restored');
