-- From what the usage lines were computed, so that they can be computed again: with their metric and
-- window, the catalog and the events that were counted by then.
ALTER TABLE invoices
    ADD COLUMN usage_catalog_version bigint CHECK (usage_catalog_version >= 0),
    -- Real time: every event accepted before is in the lines. None without a pipeline.
    ADD COLUMN usage_watermark timestamptz;
