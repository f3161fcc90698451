-- The identity pool (package pool): the patent's temporary secure database.

-- +goose Up
create table batch (
    id       bigint generated always as identity primary key,
    name     text not null unique check (octet_length(name) between 1 and 128),
    line     text not null check (octet_length(line) between 1 and 64),
    type     smallint not null check (type between 1 and 4),
    imported bigint not null,
    free     bigint not null check (free >= 0),
    reserved bigint not null default 0 check (reserved >= 0),
    used     bigint not null default 0 check (used >= 0),
    burned   bigint not null default 0 check (burned >= 0),
    at       timestamptz not null default clock_timestamp(),
    constraint batch_sum check (imported = free + reserved + used + burned) -- invariant 2
);

-- One row per identity that waits, free or reserved; used and burned ones are
-- deleted. Hence fillfactor and a tight autovacuum: every row is updated once,
-- deleted once.
create table waiting (
    type       smallint not null,
    value      text collate "C" not null check (value ~ '^[0-9A-Za-z.-]{1,64}$'),
    batch      bigint not null references batch,
    line       text not null,
    record_id  bytea check (octet_length(record_id) = 32),
    generation bigint,
    reserved   timestamptz, -- null: free
    primary key (type, value),
    check (num_nulls(record_id, generation, reserved) in (0, 3))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
create index waiting_free on waiting (line, value) where reserved is null;
create unique index waiting_reserved on waiting (record_id, generation) where reserved is not null;
create index waiting_batch on waiting (batch);

-- Why an identity was burned; the records remember that it was.
create table burned (
    type   smallint not null,
    value  text collate "C" not null,
    batch  bigint not null references batch,
    reason text not null check (octet_length(reason) between 1 and 1024),
    at     timestamptz not null default clock_timestamp(),
    primary key (type, value)
);

grant select, insert, update, delete on batch, waiting, burned to spp;
grant select on batch, waiting, burned to auditor;
