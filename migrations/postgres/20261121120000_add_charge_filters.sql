-- A charge prices some of its metric's events differently, and by groups.
ALTER TABLE charges
    -- [{"id", "values": {"key": ["value"]}, "invoice_display_name", "model", "pricing_group_keys"}]
    ADD COLUMN filters jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(filters) = 'array'),
    ADD COLUMN pricing_group_keys text[] NOT NULL DEFAULT '{}';
