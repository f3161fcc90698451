-- Keys that wait with their identities: made in advance, or imported. Each is
-- wrapped in the HSM and sealed to its identity and entry there; a copy of the
-- table opens none. They go with the identity, used or burned.

-- +goose Up
create table waiting_key (
    type   smallint not null,
    value  text collate "C" not null,
    entry  text collate "C" not null check (entry ~ '^[0-9a-z-]{1,32}$'),
    sealed bytea not null check (octet_length(sealed) between 1 and 8192),
    at     timestamptz not null default clock_timestamp(),
    primary key (type, value, entry),
    foreign key (type, value) references waiting on delete cascade
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
alter table waiting_key alter column sealed set storage external; -- ciphertext does not compress

grant select, insert on waiting_key to spp;
grant select on waiting_key to auditor;
