-- What befalls a device after, or instead of, its way down the line: quarantine,
-- scrapping, a board swap; who ordered it; stations whose certificates no longer
-- hold. Programs of version 2 run on this schema: what they write is still taken.

-- +goose Up

-- A device that is quarantined keeps the state before, in held: it still holds
-- its identity and its chip, so indexes look at what it was.
alter table device
    add column held   text,
    add column reason text not null default '', -- of the newest quarantine, abandonment, burning, scrapping
    -- One constraint, since Postgres prepares each anew for every statement.
    -- What the state before means is there too.
    add constraint device_life check (octet_length(reason) <= 1024 and
        case when state <> 'quarantined' then held is null
             when held is null then false
             when held = 'reserved' then true
             when held not in ('packaged', 'confirmed', 'restored', 'published', 'shipped') then false
             else num_nulls(hello, point, manifest, claims, certificate, package, packaged) = 0 and
                  (held = 'packaged' or num_nulls(backup, confirm, challenge) = 0 and
                   (held = 'confirmed' or num_nulls(proof, entry) = 0 and
                    (held = 'restored' or num_nulls(sequence, published) = 0)))
        end);

-- Invariant 1 holds for what is quarantined too, so that a release never fails.
drop index device_chip_line, device_chip_field, device_identity_field;
create unique index device_chip_line on device (record_id)
    where coalesce(held, state) in ('reserved', 'packaged', 'confirmed', 'restored');
create unique index device_chip_field on device (record_id) where coalesce(held, state) in ('published', 'shipped');
create unique index device_identity_field on device (identity_type, identity_value)
    where coalesce(held, state) in ('published', 'shipped');
create index device_aside on device (changed) where state = 'restored' and set_aside is not null;

-- A released identity may be planned for one other chip. A chip has one identity,
-- bound to it or planned for it: whoever comes second fails here.
alter table identity_use
    add column planned bytea check (octet_length(planned) = 32),
    add check (planned is null or state = 'released');
drop index identity_use_chip;
create unique index identity_use_chip on identity_use (coalesce(planned, record_id))
    where state = 'bound' or planned is not null;
create index identity_use_record on identity_use (record_id);

-- Every act of an operator, with the audit entry that stands for it.
create table operator_order (
    id         bigint generated always as identity primary key,
    act        text not null check (act in ('scrap', 'quarantine', 'release', 'return', 'abandon', 'swap', 'unplan',
                                            'revoke', 'put-back', 'burn')),
    record_id  bytea check (octet_length(record_id) = 32),
    generation bigint not null default 0, -- 0: of the record as a whole
    subject    text not null default '' check (octet_length(subject) <= 256), -- a station, an identity, another record
    reason     text not null check (octet_length(reason) between 1 and 1024),
    operator   text not null check (octet_length(operator) between 1 and 128),
    entry      bigint not null unique references audit_entry,
    at         timestamptz not null default clock_timestamp(),
    check (record_id is not null or subject <> '')
);
create index operator_order_record on operator_order (record_id) where record_id is not null;

-- Board swaps: which new chip gets the identity of which scrapped one.
create table plan (
    id             bigint generated always as identity primary key,
    record_id      bytea not null check (octet_length(record_id) = 32), -- of the new chip
    from_record    bytea not null check (octet_length(from_record) = 32),
    identity_type  smallint not null,
    identity_value text collate "C" not null,
    batch          bigint not null,
    reason         text not null check (octet_length(reason) between 1 and 1024),
    operator       text not null check (octet_length(operator) between 1 and 128),
    at             timestamptz not null default clock_timestamp(),
    taken          timestamptz, -- when the new chip began
    dropped        timestamptz, -- when an operator took the plan back
    foreign key (identity_type, identity_value) references identity_use,
    check (record_id <> from_record),
    check (num_nulls(taken, dropped) >= 1)
);
create unique index plan_record on plan (record_id) where taken is null and dropped is null;
create unique index plan_identity on plan (identity_type, identity_value) where taken is null and dropped is null;

-- Registry entries that are no device's own. They wait in the outbox like those.
create table notice (
    record_id  bytea not null,
    generation bigint not null,
    type       smallint not null check (type in (3, 4)), -- scrap, erase: as the registry numbers them
    entry      bytea not null check (octet_length(entry) between 1 and 65535),
    sequence   bigint check (sequence >= 0),
    set_aside  text check (octet_length(set_aside) between 1 and 1024),
    reason     text not null check (octet_length(reason) between 1 and 1024),
    operator   text not null check (octet_length(operator) between 1 and 128),
    at         timestamptz not null default clock_timestamp(),
    changed    timestamptz not null default clock_timestamp(),
    primary key (record_id, generation, type),
    foreign key (record_id, generation) references device,
    check (num_nulls(sequence, set_aside) >= 1)
);
create unique index notice_sequence on notice (sequence) where sequence is not null;
create index notice_outbox on notice (changed) where sequence is null;

-- Stations whose certificates, issued up to a moment, no longer hold.
create table revocation (
    station  text not null check (octet_length(station) between 1 and 128),
    at       timestamptz not null default clock_timestamp(),
    reason   text not null check (octet_length(reason) between 1 and 1024),
    operator text not null check (octet_length(operator) between 1 and 128),
    primary key (station, at)
);

-- Why a chip is contested; null: nobody contests it.
alter table chip add column contested text check (octet_length(contested) between 1 and 1024);

alter table incident add column facts jsonb not null default '{}'
    check (jsonb_typeof(facts) = 'object' and octet_length(facts::text) <= 4096);

-- Nothing is ever deleted, and of what was said only what is named here changes.
grant select, insert on operator_order, plan, notice, revocation to spp;
grant update (taken, dropped) on plan to spp;
grant update (sequence, set_aside, changed) on notice to spp;
grant update (contested) on chip to spp;
grant select on operator_order, plan, notice, revocation to auditor;
