# redis under freeze, by Nomad's exec driver: no image, but redis-server of the client machine, and freeze as an artifact.
job "redis" {
  type = "service"

  group "redis" {
    count = 1

    network {
      port "redis" { static = 6379 } # a restored service listens where it did, and this driver maps no ports
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
      kill_signal  = "SIGTERM" # the default is SIGINT, which checkpoints nothing
      kill_timeout = "30s"     # max_kill_timeout of the client, 30 s by default, is the most that counts

      artifact {
        source      = "https://HOST/freeze.tar.gz"
        destination = "local"
      }

      config {
        cap_drop = ["all"] # with the 13 that this driver gives by default, as ambient ones, a restore fails
        command  = "/local/freeze/freeze"
        args     = ["run", "--", "/usr/bin/redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no"]
      }

      env {
        FREEZE_STORE      = "s3://BUCKET/redis"
        FREEZE_ON_TERM    = "checkpoint"
        FREEZE_TERM_GRACE = "30s" # as kill_timeout
        FREEZE_EXCLUSIVE  = "10s" # a drain starts the next allocation before this one has ended
        FREEZE_INSTANCE   = "${NOMAD_ALLOC_ID}"
      }

      resources {
        memory = 512
      }
    }
  }
}
