-- What the device service (package deviceservice/issued) may know: of each
-- generation that ever left the line which identity it has, in what state it is
-- and how its keys are derived. No chip ID, nothing that a device sent, no secret.

-- +goose Up
create view issued with (security_barrier = true) as
select identity_type, identity_value, record_id, generation, realm, line, kdf, master_version, state,
    state in ('published', 'shipped') as active, published
from device
where state not in ('reserved', 'packaged', 'confirmed', 'restored');

-- Device keys that the device service can't derive, each wrapped to the transport
-- key of its HSM (package hsm/transport). An operator writes them.
create table service_key (
    record_id  bytea not null check (octet_length(record_id) = 32),
    generation bigint not null check (generation between 1 and 4294967295),
    entry      text collate "C" not null check (entry ~ '^[0-9a-z-]{1,32}$'),
    blob       bytea not null check (octet_length(blob) between 1 and 1024), -- names its recipient itself
    at         timestamptz not null default clock_timestamp(),
    primary key (record_id, generation, entry),
    foreign key (record_id, generation) references device
);
alter table service_key alter column blob set storage external;

grant select, insert on service_key to spp;
grant select on service_key to auditor;

-- The role may come later than the schema: not every maker runs a device service.
-- issued_grant is called again then (issued.Grant).
-- +goose StatementBegin
create function issued_grant(role name) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    execute format('grant select on public.issued, public.service_key to %I', role);
end $$;
-- +goose StatementEnd
revoke all on function issued_grant(name) from public;

-- +goose StatementBegin
do $$
begin
    if exists (select from pg_roles where rolname = 'service') then
        perform issued_grant('service');
    end if;
end $$;
-- +goose StatementEnd
