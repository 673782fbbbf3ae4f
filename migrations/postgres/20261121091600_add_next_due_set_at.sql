-- A test clock stands still while events come: what became due while it stood there is billed only
-- when the watermark has passed the real instant at which it became due.
ALTER TABLE subscriptions
    -- Real time.
    ADD COLUMN next_due_set_at timestamptz NOT NULL DEFAULT clock_timestamp();
