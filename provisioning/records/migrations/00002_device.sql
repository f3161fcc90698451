-- Device records (package records): the manufacturer's database. Every bytea
-- here is public, a ciphertext or a MAC, but for chip_id and what carries it
-- (hello, manifest, claims, certificate, package, backup): a chip ID opens the
-- device's registry entry, so this database is private.

-- +goose Up

-- Every identity that was ever bound to a device or burned, for good: imports
-- are checked against it.
create table identity_use (
    type      smallint not null check (type between 1 and 4),
    value     text collate "C" not null check (value ~ '^[0-9A-Za-z.-]{1,64}$'),
    record_id bytea check (octet_length(record_id) = 32),
    batch     bigint not null,
    state     text not null check (state in ('bound', 'burned', 'released')),
    reason    text not null default '' check (octet_length(reason) <= 1024),
    at        timestamptz not null default clock_timestamp(),
    primary key (type, value),
    check (record_id is not null or state = 'burned')
);
-- No chip has two active identities (invariant 1).
create unique index identity_use_chip on identity_use (record_id) where state = 'bound';

create table device (
    record_id      bytea not null check (octet_length(record_id) = 32),
    generation     bigint not null check (generation between 1 and 4294967295),
    chip_id        bytea not null check (octet_length(chip_id) in (16, 24, 32)),
    identity_type  smallint not null,
    identity_value text collate "C" not null,
    batch          bigint not null,
    realm          smallint not null check (realm in (1, 2)),
    line           text not null check (octet_length(line) between 1 and 64),
    station        text not null check (octet_length(station) <= 128),
    state          text not null check (state in ('reserved', 'packaged', 'confirmed', 'restored', 'published',
                                                  'shipped', 'quarantined', 'scrapped', 'burned', 'superseded')),
    suite          smallint not null,
    issued_at      bigint not null check (issued_at between 65536 and 4294967295),
    kdf            smallint not null,
    master_version bigint not null check (master_version between 0 and 4294967295),
    secrets        bytea not null check (octet_length(secrets) <= 1048576), -- sealed in the HSM; emptied at publication
    hello          bytea,
    point          bytea check (octet_length(point) = 65),
    manifest       bytea,
    claims         bytea,
    certificate    bytea,
    package        bytea,
    backup         bytea,
    confirm        bytea check (octet_length(confirm) = 32),
    challenge      bytea check (octet_length(challenge) = 32),
    proof          bytea check (octet_length(proof) between 1 and 128),
    entry          bytea,
    sequence       bigint check (sequence >= 0),
    licence        bigint not null references audit_entry, -- the entry that licensed this generation
    uses           bigint not null default 1 check (uses >= 1), -- entries that licensed uses of its keys
    set_aside      text check (octet_length(set_aside) between 1 and 1024),
    created        timestamptz not null default clock_timestamp(),
    changed        timestamptz not null default clock_timestamp(),
    packaged       timestamptz,
    published      timestamptz,
    primary key (record_id, generation),
    foreign key (identity_type, identity_value) references identity_use,
    -- What a state means is there.
    check ((claims is null) = (manifest is null)),
    check (state not in ('packaged', 'confirmed', 'restored', 'published', 'shipped', 'superseded') or
           (num_nulls(hello, point, manifest, claims, certificate, package, packaged) = 0)),
    check (state not in ('confirmed', 'restored', 'published', 'shipped', 'superseded') or
           (num_nulls(backup, confirm, challenge) = 0)),
    check (state not in ('restored', 'published', 'shipped', 'superseded') or (num_nulls(proof, entry) = 0)),
    check (state not in ('published', 'shipped', 'superseded') or (num_nulls(sequence, published) = 0))
);
-- Ciphertext does not compress.
alter table device
    alter column secrets set storage external, alter column hello set storage external,
    alter column manifest set storage external, alter column claims set storage external,
    alter column certificate set storage external, alter column package set storage external,
    alter column backup set storage external, alter column entry set storage external;

-- One generation of a chip on the line at a time, one in the field, and no
-- identity in two active records (invariant 1).
create unique index device_chip_line on device (record_id)
    where state in ('reserved', 'packaged', 'confirmed', 'restored');
create unique index device_chip_field on device (record_id) where state in ('published', 'shipped');
create unique index device_identity_field on device (identity_type, identity_value)
    where state in ('published', 'shipped');
create unique index device_sequence on device (sequence) where sequence is not null;
create index device_identity on device (identity_type, identity_value);
-- What a station began under its certificate.
create index device_station on device (station, created);
create index device_outbox on device (changed) where state = 'restored' and set_aside is null;

-- The chip makers' delivery lists.
create table chip (
    record_id   bytea primary key check (octet_length(record_id) = 32),
    attestation bytea not null unique check (octet_length(attestation) = 65),
    maker       text not null,
    maker_key   bytea not null check (octet_length(maker_key) = 32), -- SHA-256 of the key that signed the list
    lot         text not null,
    at          timestamptz not null default clock_timestamp()
);

-- Unlock statements: which next generation a locked chip may take, and who said so.
create table unlock (
    record_id  bytea not null check (octet_length(record_id) = 32),
    generation bigint not null check (generation between 2 and 4294967295),
    statement  bytea not null,
    reason     text not null check (octet_length(reason) between 1 and 1024),
    operator   text not null check (octet_length(operator) between 1 and 128),
    at         timestamptz not null default clock_timestamp(),
    primary key (record_id, generation)
);

create table incident (
    id         bigint generated always as identity primary key,
    kind       text not null check (octet_length(kind) between 1 and 64),
    record_id  bytea check (octet_length(record_id) = 32),
    generation bigint not null default 0,
    line       text not null,
    station    text not null,
    detail     text not null check (octet_length(detail) <= 4096),
    at         timestamptz not null default clock_timestamp()
);

-- Nothing is ever deleted: no role is granted it.
grant select, insert, update on device, identity_use to spp;
grant select, insert on chip, unlock, incident to spp;
grant select on device, identity_use, chip, unlock, incident to auditor;
