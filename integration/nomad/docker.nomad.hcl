# redis under freeze, with Nomad's docker driver.
job "redis" {
  type = "service"

  group "redis" {
    count = 1

    network {
      port "redis" { to = 6379 }
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "1s"
      mode     = "delay"
    }

    task "redis" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s" # the client's max_kill_timeout, 30 s by default, is the limit

      config {
        image = "REGISTRY/freeze-redis"
        ports = ["redis"]
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
