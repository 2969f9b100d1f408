<?php
session_start();
$_SESSION["count"] = ($_SESSION["count"] ?? 0) + 1;
echo $_SESSION["count"], " ", $_SERVER["QUERY_STRING"], "\n";
