#!/bin/sh
# Makes the databases of Prefect and MLflow, each owned by a role of its own that can reach no other, and sets the
# roles' passwords to those of the settings: run again after a change of .env, it rotates them. Runs before the servers
# at each start, in the container as natively; PGHOST, PGPORT, PGUSER and PGPASSWORD say where.
set -eu

for name in prefect mlflow; do
    case "$name" in
    prefect) password=$PREFECT_DB_PASSWORD ;;
    mlflow) password=$MLFLOW_DB_PASSWORD ;;
    esac
    # The password comes in by the environment: a command line is for all to see, and so is a server log of statements.
    ROLE_PASSWORD=$password psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set role="$name" --dbname postgres <<'SQL'
\getenv password ROLE_PASSWORD
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', :'role', :'password') \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'role', :'role')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'role') \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'role') \gexec
SQL
    echo "database $name: there, owned by its role"
done
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname postgres --command 'REVOKE ALL ON DATABASE postgres FROM PUBLIC'
