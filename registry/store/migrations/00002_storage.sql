-- +goose Up

-- Postgres's own tuning, nothing of which correctness depends on. Ciphertext
-- doesn't compress, so that trying to is lost time (external); and rows stay
-- whole in the heap up to 8 KB: moving out what exceeds 2 KB, the default,
-- doubles the cost of inserting and adds an index walk to every read.
alter table entry alter sealed set storage external;
alter table entry set (toast_tuple_target = 8160);
