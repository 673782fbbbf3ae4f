-- Row-level security needs a role without its bypass, and overlap constraints need btree_gist.
CREATE EXTENSION IF NOT EXISTS btree_gist;

-- Roles belong to the cluster: another database's migration may be creating this one right now.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'weir_tenant') THEN
        CREATE ROLE weir_tenant NOLOGIN NOBYPASSRLS;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- A superuser may take any role; everyone else must be made a member.
DO $$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT weir_tenant TO %I', current_user);
    END IF;
EXCEPTION
    WHEN unique_violation THEN NULL;
END
$$;

GRANT USAGE ON SCHEMA public TO weir_tenant;

-- References carry the organization, so that no row can point at another one's. The ids that jobs
-- over all organizations go by are unique in the whole deployment besides.

-- The organization this transaction acts for; none outside of one.
CREATE FUNCTION weir_organization() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('weir.organization', true), '')::uuid;
