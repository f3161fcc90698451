-- What product lines publish of their devices for everyone: one more type of
-- notice, kept with the proof of restoration. It goes out behind the device's own entry.

-- +goose Up
alter table notice drop constraint notice_type_check,
    add constraint notice_type_check check (type in (3, 4, 5)); -- scrap, erase, certificates: as the registry numbers them
