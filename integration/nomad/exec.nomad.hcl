# redis under freeze, with Nomad's exec driver: redis-server is the client machine's, and freeze is an artifact.
job "redis" {
  type = "service"

  group "redis" {
    count = 1

    network {
      port "redis" { static = 6379 } # a restored service listens on its old port, and this driver maps no ports
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "1s"
      mode     = "delay"
    }

    task "redis" {
      driver       = "exec"
      user         = "nobody"
      kill_signal  = "SIGTERM" # the default is SIGINT, which takes no checkpoint
      kill_timeout = "30s"     # the client's max_kill_timeout, 30 s by default, is the limit

      artifact {
        source      = "https://HOST/freeze.tar.gz"
        destination = "local"
      }

      config {
        cap_drop = ["all"] # a restore fails with the 13 ambient capabilities that this driver gives by default
        command  = "/local/freeze/freeze"
        args     = ["run", "--", "/usr/bin/redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no"]
      }

      env {
        FREEZE_STORE      = "s3://BUCKET/redis"
        FREEZE_ON_TERM    = "checkpoint"
        FREEZE_TERM_GRACE = "30s" # the same as kill_timeout
        FREEZE_EXCLUSIVE  = "10s" # a drain starts the next allocation before this one has ended
        FREEZE_INSTANCE   = "${NOMAD_ALLOC_ID}"
      }

      resources {
        memory = 512
      }
    }
  }
}
