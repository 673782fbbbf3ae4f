-- Metrics may compute, carry over, round and tell events apart by properties.
ALTER TABLE billable_metrics
    DROP CONSTRAINT billable_metrics_aggregation_check,
    DROP CONSTRAINT billable_metrics_field_fits_aggregation,
    ADD COLUMN expression text CHECK (expression <> ''),
    ADD COLUMN recurring boolean NOT NULL DEFAULT false,
    ADD COLUMN rounding_function text CHECK (rounding_function IN ('round', 'ceil', 'floor')),
    ADD COLUMN rounding_precision integer CHECK (rounding_precision BETWEEN -12 AND 12),
    -- [{"key": "region", "values": ["eu", "us"]}]
    ADD COLUMN filters jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(filters) = 'array'),
    -- The properties that charges of this metric ever grouped by.
    ADD COLUMN group_keys text[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT billable_metrics_aggregation_check CHECK (
        aggregation IN
            ('count', 'sum', 'max', 'unique_count', 'latest', 'weighted_sum', 'custom')
    ),
    -- Counting reads nothing, custom computes, everything else does one or the other.
    ADD CONSTRAINT billable_metrics_field_fits_aggregation CHECK (
        CASE aggregation
            WHEN 'count' THEN field_name IS NULL
            WHEN 'custom' THEN field_name IS NULL AND expression IS NOT NULL
            ELSE field_name IS NOT NULL OR expression IS NOT NULL
        END
    ),
    ADD CONSTRAINT billable_metrics_recurring_fits_aggregation
        CHECK (NOT recurring OR aggregation IN ('sum', 'unique_count', 'weighted_sum')),
    ADD CONSTRAINT billable_metrics_rounding_whole
        CHECK ((rounding_function IS NULL) = (rounding_precision IS NULL));
