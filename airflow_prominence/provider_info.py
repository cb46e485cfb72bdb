"""What Airflow learns about this package without importing anything else of it."""

from __future__ import annotations

from typing import Any

__all__ = ["get_provider_info"]

_INTEGRATION = "PROMINENCE"


def _option(
    description: str, type_: str, default: str, *, example: str | None = None, sensitive: bool = False
) -> dict[str, Any]:
    option: dict[str, Any] = {
        "description": description,
        "version_added": "0.1.0",
        "type": type_,
        "example": example,
        "default": default,
    }
    if sensitive:
        option["sensitive"] = True
    return option


def _config() -> dict[str, Any]:
    return {
        "prominence": {
            "description": "Settings of the PROMINENCE batch system (package airflow-prominence).",
            "options": {
                "internal_secret": _option(
                    "Secret that the keys of all PROMINENCE tokens (users', jobs', nodes', triggers') come from. "
                    "It must be the same in the API servers and the triggerers. Empty means ``[api_auth] jwt_secret``.",
                    "string",
                    "",
                    sensitive=True,
                ),
                "api_prefixes": _option(
                    "Comma-separated paths of the API server under which the REST interface is served. "
                    "The first is the one that jobs and users are told.",
                    "string",
                    "/api/v1,/prominence/v1",
                ),
                "public_url": _option(
                    "Address of the REST interface as users and jobs reach it; jobs see it as ``PROMINENCE_URL``. "
                    "Empty means ``[api] base_url`` followed by the first of ``api_prefixes``.",
                    "string",
                    "",
                    example="https://batch.example.org/api/v1",
                ),
                "internal_url": _option(
                    "Address of the internal routes as triggerers and nodes reach them. "
                    "Empty means ``[api] base_url`` followed by /prominence/internal/v1.",
                    "string",
                    "",
                    example="http://api-server:8080/prominence/internal/v1",
                ),
                "node_url": _option(
                    "Address of the REST interface as nodes and jobs reach it, where that is another than users' one. "
                    "Empty means ``public_url``.",
                    "string",
                    "",
                    example="http://api-server:8080/api/v1",
                ),
                "object_storage": _option(
                    "Where uploads and jobs' outputs are kept: the absolute path of a folder that all API servers "
                    "share, or ``s3://CONNECTION@BUCKET/PREFIX`` with the id of an Airflow connection of type ``aws``. "
                    "Empty means the folder ``objects`` in AIRFLOW_HOME.",
                    "string",
                    "",
                    example="s3://science_store@prominence/batch",
                ),
                "object_endpoint": _option(
                    "Address of the S3 service as users and nodes reach it, if that is another than the connection's.",
                    "string",
                    "",
                    example="https://s3.example.org",
                ),
                "documents_folder": _option(
                    "Folder whose JSON and YAML files become DAGs, where a dag-processor serves a bundle of class "
                    "``airflow_prominence.dags.bundles.DropInBundle``. Empty means the folder ``documents`` in "
                    "AIRFLOW_HOME. Who may write there may start workflows of any user.",
                    "string",
                    "",
                    example="/srv/prominence/workflows",
                ),
                "max_upload_mb": _option(
                    "Largest object that can be put into the folder of ``object_storage``, in megabytes; S3 has a "
                    "limit of its own.",
                    "integer",
                    "51200",
                ),
                "exec_timeout_s": _option(
                    "Seconds for which a command that a user runs in a job (``prominence exec``) may take. The "
                    "released client gives up when it has heard nothing for 150 s.",
                    "integer",
                    "120",
                ),
                "exec_limit_mb": _option("Most that such a command may write, in megabytes.", "integer", "16"),
                "snapshot_timeout_s": _option(
                    "Seconds for which a snapshot of a running job's files may take, its upload included.",
                    "integer",
                    "1800",
                ),
                "snapshot_limit_mb": _option(
                    "Largest snapshot, compressed, in megabytes; never more than ``max_upload_mb``.",
                    "integer",
                    "10240",
                ),
                "oidc_issuer": _option(
                    "Issuer of OpenID Connect access tokens that are accepted from users, exactly as in their ``iss``. "
                    "Empty means none.",
                    "string",
                    "",
                    example="https://login.example.org/realms/science",
                ),
                "oidc_audience": _option(
                    "Audience that such a token must have; required with ``oidc_issuer``.", "string", ""
                ),
                "oidc_username_claim": _option(
                    "Claim that names the user; without it ``sub``, else ``preferred_username``.", "string", ""
                ),
                "oidc_groups_claim": _option("Claim that lists the user's groups.", "string", "groups"),
                "oidc_required_group": _option(
                    "Group that a user must be in to be accepted. Empty means every user of the issuer.", "string", ""
                ),
                "oidc_login_parameters": _option(
                    "What ``prominence login`` asks of the issuer beside or instead of what the client asks, written "
                    "as in a URL's query: the scopes that bring the groups claim, the resource or audience that the "
                    "access token is for.",
                    "string",
                    "",
                    example="scope=openid email groups&resource=https://batch.example.org",
                ),
                "oidc_client_id": _option(
                    "Client of the issuer in whose name users log in, where not everybody may register one there. "
                    "Empty means that ``prominence register`` registers a client of the user's own.",
                    "string",
                    "",
                ),
                "oidc_client_secret": _option(
                    "Secret of ``oidc_client_id``; users never see it. Empty means that it is a public client.",
                    "string",
                    "",
                    sensitive=True,
                ),
                "user_token_days": _option(
                    "Days that a user's token is good for, unless ``airflow prominence token --days`` says otherwise.",
                    "integer",
                    "30",
                ),
                "mail_connection": _option(
                    "Airflow connection of type ``smtp`` whose server sends letters to users who ask for "
                    "``notifications``. Where there is no such connection, jobs that ask for letters are refused.",
                    "string",
                    "smtp_default",
                ),
                "mail_from": _option(
                    "Address that letters come from. Empty means the connection's ``from_email``, else its login, "
                    "else prominence@ the host of ``public_url``.",
                    "string",
                    "",
                    example="Batch service <batch@example.org>",
                ),
                "mail_give_up_hours": _option(
                    "Hours for which a letter is tried, ever more rarely, before it is given up.", "integer", "48"
                ),
                "keep_stdout_days": _option(
                    "Days for which a job's standard output and error are kept after its end; 0 means for ever.",
                    "float",
                    "30",
                ),
                "keep_outputs_days": _option(
                    "Days for which a job's output files and snapshots are kept after its end; 0 means for ever.",
                    "float",
                    "30",
                ),
                "keep_directories_hours": _option(
                    "Hours for which a node keeps the directory of a job with outputs after its end, so that clearing "
                    "its task ``stage_out`` in Airflow uploads them again; never longer than output files are kept. "
                    "What is kept gives way, the oldest first, when its room is wanted for a job. 0 means not at all.",
                    "float",
                    "1",
                ),
                "keep_uploads_days": _option(
                    "Days for which an uploaded object is kept after it was uploaded or last used by a job; 0 means "
                    "for ever.",
                    "float",
                    "180",
                ),
                "keep_jobs_days": _option(
                    "Days for which a job's description is kept after its end, and the most for which anything of it "
                    "is; its usage stays in the books. 0 means for ever.",
                    "float",
                    "365",
                ),
                "keep_in_queue_days": _option(
                    "Days after which a finished job with ``leaveInQueue`` leaves the queue by itself; 0 means never.",
                    "float",
                    "90",
                ),
                "warn_days": _option(
                    "Days before something is removed in which its owner is warned: where the job is described, and "
                    "by a letter if the job asked for letters. At most half of the time for which it is kept; 0 means "
                    "no warnings.",
                    "float",
                    "7",
                ),
                "stdout_limit_mb": _option(
                    "Megabytes of standard output, and as many of standard error, that are kept of each node of each "
                    "attempt of a job; what is beyond is cut and the cut is marked.",
                    "integer",
                    "1024",
                ),
                "max_body_mb": _option("Largest request body, in megabytes.", "integer", "64"),
                "max_cpus": _option("Most CPU cores that a job may ask for on one node.", "integer", "1024"),
                "max_nodes": _option("Most nodes that a job may ask for.", "integer", "1000"),
                "evict_after_s": _option(
                    "Seconds of silence, counted only while the API was up to hear, after which a node is taken for "
                    "lost and its jobs are evicted.",
                    "integer",
                    "45",
                ),
                "outage_grace_s": _option(
                    "Seconds that nodes are given to come back after an outage of the API server before their silence "
                    "counts.",
                    "integer",
                    "60",
                ),
                "private_network_sites": _option(
                    "Comma-separated sites whose nodes may fetch artifacts and images from private networks, and mount "
                    "users' storage there (10.0.0.0/8, 192.168.0.0/16, fc00::/7 and so on), where institutes "
                    "keep data; ``*`` means all. "
                    "Name only sites where what listens there asks for a password: users choose the addresses.",
                    "string",
                    "",
                    example="cloud-a,cluster-b",
                ),
                "loopback_sites": _option(
                    "Comma-separated sites whose nodes may fetch artifacts and images from their own loopback "
                    "addresses, and mount users' storage there; ``*`` means all.",
                    "string",
                    "",
                ),
                "b2drop_url": _option(
                    "WebDAV address of the B2DROP, or any other Nextcloud, that a job's storage of type ``b2drop`` is "
                    "in.",
                    "string",
                    "https://b2drop.eudat.eu/remote.php/webdav",
                    example="https://cloud.example.org/remote.php/webdav",
                ),
                "site_file": _option(
                    "YAML file that describes the sites; empty means that the nodes which register are all there is.",
                    "string",
                    "",
                    example="/etc/prominence/sites.yaml",
                ),
                "submit_rate": _option(
                    "Submissions a second that one user may make; 0 means any number.", "float", "0", example="20"
                ),
            },
        }
    }


def get_provider_info() -> dict[str, Any]:
    """The package's entry in Airflow's list of providers (entry point ``apache_airflow_provider``)."""

    def modules(*names: str) -> list[dict[str, Any]]:
        return [{"integration-name": _INTEGRATION, "python-modules": [f"airflow_prominence.{name}" for name in names]}]

    return {
        "package-name": "airflow-prominence",
        "name": "PROMINENCE",
        "description": "Batch jobs and workflows in containers, on whatever site has room.",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://prominence-eosc.github.io/docs",
                "tags": ["software"],
            }
        ],
        "operators": modules("operators"),
        "sensors": modules("sensors"),
        "triggers": modules("triggers"),
        "task-decorators": [{"name": "prominence", "class-name": "airflow_prominence.decorators.prominence_task"}],
        "bundles": modules("dags"),
        "config": _config(),
        "db-managers": ["airflow_prominence.store.manager.ProminenceDBManager"],
        "cli": ["airflow_prominence.cli.get_commands"],
    }
